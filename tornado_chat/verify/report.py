"""What a user sees of a run: a table that lives while it does, and the report at its end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tornado_chat.verify.answers import Answers
from tornado_chat.verify.crowd import Crowd
from tornado_chat.verify.ledger import Ledger

TABLE_SECONDS = 0.5
LINE_SECONDS = 5.0
VIOLATIONS_SHOWN = 20
TROUBLE_SHOWN = 5


async def watch(title: str, crowd: Crowd, out: TextIO) -> None:
    """Show how it goes until cancelled: as a table on a terminal, else as a line once in a while."""
    console = Console(file=out)
    if not console.is_terminal:
        while True:
            await asyncio.sleep(LINE_SECONDS)
            print(_line(crowd), file=out, flush=True)
    with Live(_table(title, crowd), console=console, auto_refresh=False, transient=True) as live:
        while True:
            await asyncio.sleep(TABLE_SECONDS)
            live.update(_table(title, crowd), refresh=True)


def _figures(crowd: Crowd) -> dict[str, str]:
    ledger, late, answer = crowd.ledger, crowd.ledger.late, crowd.ledger.answer
    counts = ledger.counts
    return {
        "clients connected": f"{sum(device.connected for device in crowd.devices)} of {len(crowd.devices)}",
        "as": _listed(crowd.kinds()),
        "commands sent": f"{counts['sent']:,}",
        "acknowledged": f"{counts['acked']:,}",
        "unanswered": f"{sum(len(device.commands.unanswered) for device in crowd.devices):,}",
        "events delivered": f"{counts['delivered']:,}",
        "delivered late by": f"p99 {late.quantile(0.99):.3f} s, max {late.longest:.3f} s",
        "acknowledged after": f"p99 {answer.quantile(0.99):.3f} s, max {answer.longest:.3f} s",
        "connections": f"{counts['connects']:,}",
        "fallen behind": f"{counts['behind']:,}",
        **({"questions": _asked(ledger.answers)} if ledger.answers is not None else {}),
        "faults": f"{ledger.faults.total():,}",
        "violations": f"{ledger.violation_count:,}",
    }


def _table(title: str, crowd: Crowd) -> Table:
    table = Table(title=f"{title}, {crowd.ledger.seconds:.0f} s", show_header=False, title_justify="left")
    table.add_column(justify="left")
    table.add_column(justify="right", min_width=32)
    for name, value in _figures(crowd).items():
        bad = name == "violations" and crowd.ledger.violation_count
        table.add_row(name, value, style="bold red" if bad else None)
    for line in crowd.ledger.history[-3:]:
        table.add_row("", line, style="dim")
    for violation in crowd.ledger.violations[:3]:
        table.add_row("", str(violation), style="red")
    return table


def _line(crowd: Crowd) -> str:
    return f"{crowd.ledger.seconds:.0f} s: " + ", ".join(f"{name} {value}" for name, value in _figures(crowd).items())


def result(ledger: Ledger, about: Mapping[str, Any], trouble: list[str]) -> dict[str, Any]:
    """The whole report as JSON has it; `about` says what was run, `trouble` is what the server logged."""
    return {
        "ok": not ledger.violation_count,
        **about,
        "seconds": round(ledger.seconds, 1),
        "epoch": ledger.epoch,
        "events": sum(record.head for record in ledger.records.values()),
        "counts": dict(sorted(ledger.counts.items())),
        "closes": dict(sorted(ledger.closes.items())),
        "errors": dict(sorted(ledger.errors.items())),
        "faults": dict(sorted(ledger.faults.items())),
        "late_ms": ledger.late.summary(),
        "polled_ms": ledger.polled.summary(),
        "ack_ms": ledger.answer.summary(),
        "first_word_ms": ledger.first_words.summary(),
        "left_ms": ledger.left.summary(),
        "history": ledger.history,
        "server_errors": trouble,
        "violation_count": ledger.violation_count,
        "violations": [violation.as_json() for violation in ledger.violations],
    }


def _asked(answers: Answers) -> str:
    waiting = sum(question.waits for question in answers.questions)
    return f"{len(answers.questions):,}, {waiting:,} wait for an answer"


def _of_agent(answers: Answers, counts: Mapping[str, int], report: Mapping[str, Any]) -> list[str]:
    replies = answers.replies.values()
    ends = Counter(reply.end.reason if reply.end is not None else "open" for reply in replies)
    first, left = report["first_word_ms"], report["left_ms"]
    return [
        f"  an agent of {report['agents']} processes: {counts['questions']:,} questions, {counts['asked again']:,} "
        f"times asked again, {counts['taken back']:,} taken back, {counts['stops of replies']:,} stops",
        f"  {len(replies):,} replies ({_listed(ends)}), {sum(reply.gen > 1 for reply in replies):,} taken over; "
        f"{counts['calls of the model']:,} calls of the model, {counts['calls again']:,} of them for a reply once more",
        f"  first word, after the question: p50 {first['p50']:g} ms, p99 {first['p99']:g} ms, max {first['max']:g} ms",
        f"  model left, after a stop: p50 {left['p50']:g} ms, p99 {left['p99']:g} ms, max {left['max']:g} ms; "
        f"it said {counts['pieces after a stop']:,} pieces more",
    ]


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())


def text(ledger: Ledger, report: Mapping[str, Any]) -> str:
    """`report`, a `result`, for people."""
    counts, late, polled, ack = ledger.counts, report["late_ms"], report["polled_ms"], report["ack_ms"]
    lines = [
        f"{report['installation']}; seed {report['seed']}, {report['seconds']:g} s",
        f"  {report['clients']} clients in {len(ledger.records)} rooms: {_listed(report['transports'])}",
        f"  {counts['connects']:,} connections made, {counts['changes']:,} changes from one way in to another",
        f"  {counts['streams']:,} streams, {counts['resumed by id']:,} of them resumed by their last id",
        f"  {counts['polls']:,} polls, {counts['pages']:,} pages, {counts['posts']:,} requests with commands",
        f"  {counts['sent']:,} commands sent, {counts['acked']:,} acknowledged, {report['events']:,} events in the log",
        f"  {counts['resent']:,} sent again on purpose, {counts['duplicates']:,} acknowledged again",
        f"  {counts['histories']:,} pages of history and {counts['presences']:,} answers to presence compared",
        f"  own logs: {counts['mentioned']:,} mentions, {counts['marked']:,} marks and "
        f"{counts['followed'] + counts['unfollowed']:,} changes of rooms shown, {counts['states']:,} states compared",
        f"  {counts['growing']:,} messages grew, {counts['poured']:,} of them as the body of a request: "
        f"{counts['chunks']:,} chunks and {counts['snapshots']:,} texts shown, "
        f"{counts['gaps'] + counts['gaps at the end']:,} gaps filled; {counts['stops']:,} stopped, "
        f"{counts['dead authors']:,} authors died",
        f"  {counts['delivered']:,} deliveries; clients fell behind {counts['behind']:,} times",
        f"  late, after the first client: p50 {late['p50']:g} ms, p99 {late['p99']:g} ms, max {late['max']:g} ms",
        f"  late in polls: p50 {polled['p50']:g} ms, p99 {polled['p99']:g} ms, max {polled['max']:g} ms",
        f"  acks: p50 {ack['p50']:g} ms, p99 {ack['p99']:g} ms, max {ack['max']:g} ms",
    ]
    if ledger.answers is not None:
        lines += _of_agent(ledger.answers, counts, report)
    for name in ("faults", "closes", "errors"):
        if report[name]:
            lines.append(f"  {name}: {_listed(report[name])}")
    trouble = report["server_errors"]
    if trouble:
        lines.append(f"  the server logged {len(trouble)} errors:")
        lines += [f"    {line}" for line in trouble[:TROUBLE_SHOWN]]
    if not ledger.violation_count:
        return "\n".join([*lines, "every promise held"])
    lines.append(f"violations: {ledger.violation_count:,}")
    lines += [f"  {violation}" for violation in ledger.violations[:VIOLATIONS_SHOWN]]
    if ledger.violation_count > VIOLATIONS_SHOWN:
        lines.append(f"  and {ledger.violation_count - VIOLATIONS_SHOWN:,} more (--json has them)")
    if ledger.history:
        lines += ["harm done to the installation:", *(f"  {line}" for line in ledger.history[-VIOLATIONS_SHOWN:])]
    return "\n".join(lines)
