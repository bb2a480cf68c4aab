"""What pyproject.toml cannot say: recipes/ is installed, too, under a name of its own."""

from setuptools import find_packages, setup

OURS = ("distill", "eval", "pseudo_label")  # and nothing else: tests/ is nobody's to import

setup(
    packages=[
        *find_packages(include=[*OURS, *(f"{name}.*" for name in OURS)]),
        "audio_distill_recipes",
    ],
    package_dir={"audio_distill_recipes": "recipes"},
    package_data={
        "audio_distill_recipes": ["**/*"],
        "eval": ["modules/**/*.py"],
        "distill": ["whisper/encoder/voices/*"],
    },
    include_package_data=False,  # with a repository it would be other files than without
)
