"""A plan of `distill.whisper.plan.plan` for people."""

from __future__ import annotations

_WORTH_MANY = 3600.0  # seconds of one GPU


def describe(plan: dict) -> str:
    """The plan as text."""
    parts = [f"Plan of {plan['name']}", _data_text(plan), _model_text(plan)]
    if plan["outside"]:
        parts.append(_outside_text(plan["outside"]))
    parts.append(_training_text(plan))
    if plan["disk"]:
        parts += [_disk_text(plan), _store_text(plan["store"]), _memory_text(plan),
                  _time_text(plan)]
        if sum(each["gpu"] or 0 for each in plan["time"]["seconds"].values()) > _WORTH_MANY:
            parts.append(_scale_text(plan["scale"]))
    return "\n\n".join([*parts, _done_text(plan["done"])])


def _data_text(plan: dict) -> str:
    lines = ["Data"]
    for split, data in plan["data"].items():
        estimated = " (an estimate)" if data["windows"] and data["missing"] else ""
        if data["windows"] is None:
            text = "unknown until its manifests are there"
        elif not data["windows"]:
            text = "none"
        else:
            clips = f"{_count(data['clips'], 'clip')}, " if data["clips"] is not None else ""
            packings = f" in {data['packings']} packings" if data["packings"] > 1 else ""
            windows = _count(data["windows"], "window") + packings
            text = f"{clips}{_hours(data['hours'])}, {windows}, {data['fill']:.0%} full{estimated}"
        lines.append(f"  {split:<12}{text}")
        if data["long_clips"]:
            text = f"{_count(data['long_clips'], 'clip')} longer than a window"
            if data["unheard_clips"]:
                text += f", {data['unheard_clips']:,} cut evenly by this plan, which hears nothing"
            lines.append(f"  {'':<12}{text}")
        lines += [f"  {'':<12}left out: {n:,} {reason}" for reason, n in data["drops"].items()]
    commands = [c for data in plan["data"].values() for c in data["commands"]]
    if commands:
        lines.append("  Missing manifests; SOURCE and keys are in the recipe's README.md:")
        lines += [f"    {command}" for command in commands]
    return "\n".join(lines)


def _model_text(plan: dict) -> str:
    lines = ["Models"]
    for role in ("teacher", "student"):
        model = plan[role]
        name = f"{model['model']}, " if "model" in model else ""
        if "parameters" not in model:
            lines.append(f"  {role:<12}{name}unknown architecture")
            continue
        lines.append(
            f"  {role:<12}{name}{model['encoder_layers']} encoder and {model['decoder_layers']} "
            f"decoder layers, {model['parameters'] / 1e6:.1f} M parameters, "
            f"{_bytes(model['float32_bytes'])} in float32, {_bytes(model['float16_bytes'])} in "
            "float16"
        )
    if not plan["disk"]:
        lines.append("  No sizes and times: give teacher.model=FOLDER, or the public model that it "
                     "was made of, for a plan")
    if "trained_parameters" in plan["student"]:
        trained = plan["student"]["trained_parameters"]
        lines.append(f"  {'':<12}{trained / 1e6:.1f} M parameters of the student are trained")
    if "reader" in plan["student"]:
        lines.append(f"  reader      {plan['student']['reader']}")
    return "\n".join(lines)


def _outside_text(outside: dict) -> str:
    if outside["backend"] == "table":
        return f"Labels\n  from {outside['table']}; the teacher gives its scores alone"
    lines = ["Labels",
             f"  {outside['model']} at {outside['url']}: {_count(outside['requests'], 'request')}, "
             f"{outside['seconds'] / 60:,.1f} minutes of audio"]
    if outside["price"] is None:
        lines.append("  price unknown: set pseudo_label.http.price_per_minute")
    else:
        lines.append(f"  price {outside['price']:,.2f} at {outside['price_per_minute']:g} a minute "
                     "of audio; what is tried again may come on top")
    if outside["least_seconds"]:
        lines.append(f"  at least {_seconds(outside['least_seconds'])} for a process, by "
                     "pseudo_label.http.requests_per_minute")
    return "\n".join(lines)


def _training_text(plan: dict) -> str:
    t = plan["training"]
    filtered = "that passed the filter" if plan["done"]["kept_windows"] else "before the filter"
    return (
        f"Training\n  {t['steps']:,} steps (optimiser updates) of {t['batch_size']} windows = "
        f"{t['views']:,} views: {t['epochs']:.1f} epochs of {t['windows']:,} windows {filtered}\n"
        f"  {_count(t['micro_batches_per_step'], 'micro-batch', 'es')} a step over all processes; "
        f"teacher {plan['teacher']['mode']}"
    )


def _disk_text(plan: dict) -> str:
    disk = plan["disk"]
    lines = ["Disk", f"  label       rows {_bytes(disk['labels'])}"]
    lines.append(
        f"  train       checkpoints {_bytes(disk['checkpoints'])} ({_bytes(disk['checkpoint'])} "
        f"each, one more than is kept while it is written), best {_bytes(disk['best'])}, student "
        f"{_bytes(disk['student'])}"
    )
    return "\n".join(lines)


def _store_text(store: dict) -> str:
    views = _count(store["views"], "view")
    lines = [f"Teacher store, {views}: {_bytes(store['total'])} as the recipe has it (*)"
             if store["used"] else f"Teacher store, {views}: not used (teacher.mode=live)",
             f"  {'':<38}{'an hour of audio':>16}{'in all':>12}"]
    for choice in store["choices"]:
        name = f"{'*' if choice['chosen'] else ' '} {choice['name']}"
        lines.append(f"  {name:<38}{_bytes(choice['bytes_per_hour']):>16}"
                     f"{_bytes(choice['total']):>12}")
    return "\n".join(lines)


def _memory_text(plan: dict) -> str:
    memory = plan["memory"]
    whose = "both models" if plan["teacher"]["mode"] == "live" else "the student"
    text = (f"Memory\n  train       {_bytes(memory['models'])} for {whose}, gradients and "
            "the optimiser in float32; activations come on top")
    if memory["silence"]["float32"]:
        kept = " in float32, ".join(map(_bytes, memory["silence"].values()))
        text += f"\n  all stages  {kept} in float16 for silence that is kept behind short audio"
    if memory["encoder_states"]:
        text += f"\n  {'':<12}{_bytes(memory['encoder_states'])} for encoder states"
    return text


def _time_text(plan: dict) -> str:
    time = plan["time"]
    lines = ["Time", f"  {'':<12}{'this CPU':>12}{'1 x 80 GB GPU':>18}"]
    for stage, seconds in time["seconds"].items():
        cpu, gpu = (_seconds(seconds[machine]) for machine in ("cpu", "gpu"))
        lines.append(f"  {stage:<12}{cpu:>12}{gpu:>18}")
    a = time["assumed"]
    cores, core = _count(a["cores"], "core"), a["core_flops"] / 1e9
    gpu, share = a["gpu_flops"] / 1e12, a["gpu_utilisation"]
    return "\n".join([
        *lines,
        f"  Assumed: {cores} of {core:.0f} GFLOP/s in float32; GPU {gpu:.0f} TFLOP/s in bf16 x "
        f"{share:.0%} utilisation;",
        f"  decoding token by token reaches {a['cpu_decoding']:.0%} (CPU) and "
        f"{a['gpu_decoding']:.0%} (GPU) of that; {a['tokens_per_second']:g} tokens per second of "
        "audio.",
        "  Within a factor of two at best. Labelling and training divide by the number of GPUs.",
    ])


_SLOWEST = {"gpu": "GPU", "cpu": "processor", "disk": "disk", "network": "network"}


def _scale_text(scale: dict) -> str:
    """What each stage takes, and what it waits for."""
    counts = list(scale["stages"])
    lines = ["Many GPUs, and what each stage waits for",
             (" " * 14 + "".join(f"{f'{count} GPUs':<26}" for count in counts)).rstrip()]
    for stage in scale["stages"][counts[0]]:
        cells = []
        for count in counts:
            found = scale["stages"][count][stage]
            cells.append(f"{_seconds(found['seconds'])}, {_SLOWEST[found['bottleneck']]}")
        lines.append(f"  {stage:<12}" + "".join(f"{cell:<26}" for cell in cells).rstrip())
    last = scale["stages"][counts[-1]]
    lines += [f"  {stage} on {counts[-1]}: " + ", ".join(
        f"{_SLOWEST[part]} {_seconds(each[part])}" for part in _SLOWEST if each[part])
        for stage, each in last.items()]
    s, core_seconds = scale["stated"], scale["measured"]["audio_core_seconds"]
    return "\n".join([
        *lines,
        f"  Measured: an hour of audio takes {core_seconds:g} s of a core to decode and to make "
        "features of.",
        f"  Stated: {s['cores']} cores a GPU; an hour of audio has {_bytes(s['flac_bytes'])};",
        f"  disks read {_bytes(s['disk_bytes'])} and {s['disk_reads']:,} pieces a second for all "
        "machines together;",
        f"  {_bytes(s['link_bytes'])} a second between machines of 8, {_bytes(s['inner_bytes'])} "
        "inside; all else as above."])


def _done_text(done: dict) -> str:
    lines = ["Already there", f"  label       {done['shards']:,} of {done['num_shards']:,} shards"]
    step, steps = done["checkpoint_step"], done["student_steps"]
    student = "no student" if steps is None else f"student of {steps:,} steps"
    lines.append(f"  train       {student}, "
                 + ("no checkpoint" if step is None else f"checkpoint at step {step:,}"))
    lines.append(f"  eval        {'results.json' if done['evaluation'] else 'nothing'}")
    return "\n".join(lines)


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{plural * (number != 1)}"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _hours(hours: float) -> str:
    return f"{60 * hours:.1f} minutes" if hours < 1 else f"{hours:,.1f} h"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
