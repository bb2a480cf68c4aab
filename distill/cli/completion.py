"""What makes a shell complete `audio-distill`: its commands, then recipes and files.

Once, by shell:

    eval "$(audio-distill completion bash)"            in ~/.bashrc
    eval "$(audio-distill completion zsh)"             in ~/.zshrc, after compinit
    audio-distill completion fish > ~/.config/fish/completions/audio-distill.fish
"""

from __future__ import annotations

from distill.config import known_recipes

_BASH = """\
_audio_distill() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands} completion help --help --version" -- "$word"))
    else
        COMPREPLY=($(compgen -W "{recipes}" -- "$word") $(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _audio_distill audio-distill"""
_ZSH = """\
_audio_distill() {{
    local -a commands=({commands})
    if (( CURRENT == 2 )); then
        _describe command commands
    else
        _alternative 'recipes:recipe:({recipes})' 'files:file:_files'
    fi
}}
compdef _audio_distill audio-distill"""
_FISH = """\
{commands}
complete -c audio-distill -n 'not __fish_use_subcommand' -a '{recipes}'"""


def script(commands: dict[str, str], arguments: list[str]) -> str:
    """Text for the shell that `arguments` name.

    Args:
        commands: name -> what it does.

    Raises:
        ValueError: another shell.
    """
    recipes = " ".join(known_recipes())
    match arguments:
        case ["-h" | "--help"]:
            return __doc__
        case ["bash"]:
            return _BASH.format(commands=" ".join(commands), recipes=recipes)
        case ["zsh"]:
            described = " ".join(f"'{name}:{_plain(about)}'" for name, about in commands.items())
            return _ZSH.format(commands=described, recipes=recipes)
        case ["fish"]:
            described = "\n".join(
                f"complete -c audio-distill -n __fish_use_subcommand -a {name} -d '{_plain(about)}'"
                for name, about in commands.items()
            )
            return _FISH.format(commands=described, recipes=recipes)
        case _:
            raise ValueError(
                f"completion bash|zsh|fish, got {' '.join(arguments) or 'nothing'}\n\n{__doc__}"
            )


def _plain(text: str) -> str:
    """Without what ends a word in quotes or a name in zsh."""
    return text.replace("'", "’").replace(":", ",")
