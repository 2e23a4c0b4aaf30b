"""Checks of the probe that watches a run, and of what needs one."""

from megatron_coreward.config.schema import Config


def check_monitor(config: Config) -> None:
    """Raises ValueError for what asks for a probe where there is none, or for one without questions."""
    monitor = config.monitor
    needs = {
        "monitor.on_alarm": (monitor.on_alarm, "stop", "warn"),
        "checkpoint.keep_best_by": (config.checkpoint.keep_best_by, "probe", "agreement"),
    }
    for key, (given, with_probe, without) in needs.items():
        if given == with_probe and not monitor.every:
            raise ValueError(
                f"{key} is {given}, but there is no probe: monitor.every is 0. Set monitor.every to the "
                f"steps between probes, or {key} to {without}."
            )
    if monitor.rephrased and not monitor.original:
        raise ValueError(
            f"monitor.rephrased is {monitor.rephrased!r}, but monitor.original is empty. Name the file of "
            "the original questions there, or clear monitor.rephrased."
        )
    if monitor.every and not monitor.original and config.data.source != "synthetic":
        raise ValueError(
            f"monitor.every is {monitor.every}, but there are no pairs to probe with. Set monitor.original "
            "to a file of held-out questions in both wordings (no answers are needed), or monitor.every=0."
        )
