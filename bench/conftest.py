"""The fixture that runs contenders in pairs, and the one table at the end."""

import statistics

import pytest

ROUNDS = 11
_lines = []


@pytest.fixture
def compare(benchmark):
    """Run contenders alternately, A B C A B C, and put the medians into the table.

    ``compare(figure, contenders, goals, unit="ns a message")``: `contenders` maps a name to a function that returns
    its figure for one round, ours first; None stands for a peer that is not installed. `goals` maps a peer to the
    ratio to reach: ours / peer at most, where it is below 2, and peer / ours at least, where it is not. The ratio is
    the median over the rounds of the ratio within one round.
    """

    def run(figure, contenders, goals, rounds=ROUNDS, unit="ns a message"):
        samples = {name: [] for name, contender in contenders.items() if contender is not None}

        def one_round():
            for name in samples:
                samples[name].append(contenders[name]())

        one_round()
        for measured in samples.values():
            measured.clear()
        benchmark.pedantic(one_round, rounds=rounds, iterations=1)
        ours = next(iter(contenders))
        medians = {name: statistics.median(measured) for name, measured in samples.items()}
        benchmark.extra_info.update(figure=figure, unit=unit, medians=medians, samples=samples)
        _lines.append((figure, unit, ours, f"{medians[ours]:,.1f}", "", ""))
        for name in contenders:
            if name == ours:
                continue
            if name not in samples:
                _lines.append((figure, unit, name, "missing", "not installed", ""))
                continue
            ratio = statistics.median(o / p for o, p in zip(samples[ours], samples[name], strict=True))
            shown = f"ours {ratio:.2f} of it" if ratio > 0.5 else f"ours {1 / ratio:.1f} times faster"
            _lines.append((figure, unit, name, f"{medians[name]:,.1f}", shown, _verdict(ratio, goals.get(name))))

    return run


@pytest.fixture
def report(benchmark):
    """Put one figure with an upper bound into the table: ``report(figure, measure, bound, unit)``."""

    def run(figure, measure, bound, unit):
        value = benchmark.pedantic(measure, rounds=1, iterations=1)
        benchmark.extra_info.update(figure=figure, unit=unit, value=value)
        verdict = "reached" if value <= bound else f"{value / bound - 1:.0%} too much"
        _lines.append((figure, unit, "ours", f"{value:,.1f}", f"goal {bound:g}", verdict))

    return run


def _verdict(ratio, goal):
    if goal is None:
        return ""
    if goal < 2:
        return f"goal {goal:g}: " + ("reached" if ratio <= goal else f"{ratio / goal - 1:.0%} short")
    return f"goal {goal:g} times: " + ("reached" if 1 / ratio >= goal else f"{1 - 1 / ratio / goal:.0%} short")


def pytest_terminal_summary(terminalreporter):
    """Print the table."""
    if not _lines:
        return
    terminalreporter.section("messagechannel beside its peers: medians of alternating rounds")
    previous = None
    for figure, unit, name, value, ratio, verdict in _lines:
        if figure != previous:
            terminalreporter.line(f"{figure} ({unit})")
            previous = figure
        terminalreporter.line(f"    {name:<42} {value:>12}   {ratio:<24} {verdict}".rstrip())
