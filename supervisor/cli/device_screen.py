"""A device on the screen: who holds it and waits for it, what is on it, and where a hand-over is."""

import time
from datetime import UTC, datetime
from typing import Final

from supervisor.cli.screen import ago, colour, size, table
from supervisor.shapes import DeviceView, HandoverView, HolderView, PeakView, StrangerView, WaiterView

_IDLE_SHOWN_S: Final = 60.0
"""A lease of which nothing is used for less is no news."""


def waiting(waiter: WaiterView) -> str:
    """Return what a waiter is called: a job by its id, a program outside Warden by its name."""
    return waiter.job or f"{waiter.owner}{f' (pid {waiter.pid})' if waiter.pid else ''}"


def holding(holder: HolderView) -> str:
    """Return who holds a device, with the pid of one that is not ours."""
    return holder.owner if holder.kind == "worker" else f"{holder.owner} ({f'pid {holder.pid}, ' if holder.pid else ''}not Warden's)"


def handover_words(handover: HandoverView) -> str:
    """Return where a hand-over is."""
    if handover.gone_s is None:
        return f"waits for {', '.join(handover.leaving) or 'nobody'} to leave, {ago(handover.ago_s)}"
    return f"memory is being measured, {ago(handover.ago_s)}"


def device_screen(device: DeviceView) -> list[str]:
    """Return all of one device: who has it, who uses it without a lease, who waits for it, how the last hand-over went."""
    state = device.state if device.state == "ok" else colour(device.state, "bad")
    dirty = colour("contaminated", "warn") if any(one.intruder for one in device.strangers) else ""
    used = f"{size(device.used_bytes)} of {size(device.total_bytes)} used"
    lines = ["  ".join(filter(None, (device.id, device.name, used, state, dirty))), f"PROOF         {device.proof or '?'}"]
    rows = [
        (
            holding(holder),
            holder.lease,
            str(holder.fence),
            ago(holder.since_s),
            size(holder.need_bytes),
            size(holder.booked_bytes),
            size(holder.used_bytes),
            "-" if holder.peak_bytes is None else size(holder.peak_bytes),
            _lease_words(holder),
        )
        for holder in device.holders
    ]
    lines += table(("HOLDER", "LEASE", "FENCE", "HELD", "NEED", "BOOKED", "SEEN", "PEAK", "STATE"), rows) if rows else ["nobody holds it"]
    lines += [_peak_line(holder, peak) for holder in device.holders for peak in holder.peaks]
    lines += [
        f"GIVES WAY     {holding(holder)}, at its next checkpoint, to {holder.wanted_by}"
        if holder.kind == "worker"
        else f"WANTED        {holding(holder)} should give it back soon, to {holder.wanted_by}"
        for holder in device.holders
        if holder.wanted_by
    ]
    lines += [_stranger_line(one) for one in device.strangers]
    if device.xids:
        lines.append(f"FAULTS        {', '.join(f'Xid {xid}: {count}' for xid, count in device.xids.items())}")
    if (loads := device.loading) is not None:
        who = f"{loads.owner}{f' (pid {loads.pid})' if loads.pid else ''}{f'  {loads.lease}  fence {loads.fence}' if loads.lease else ''}"
        lines.append(f"LOADING       {who}  for {ago(loads.for_s)}; nobody else loads before it is done, or for {ago(loads.left_s)} more")
    if device.kept_free_s is not None:
        lines.append(f"KEPT FREE     residents stay away for {ago(device.kept_free_s)} more, unless somebody waits for them")
    if device.trouble and not device.unwell:  # of one that is not ok the trouble stands among what is not as it should be
        lines.append(colour(f"TROUBLE       {device.trouble}", "bad"))
    if device.waiters:
        queue = [
            (
                waiting(waiter) if waiter.kind == "outside" else waiter.owner,
                waiter.job or "-",
                f"{waiter.priority} ({waiter.aged_priority})",
                size(waiter.need_bytes),
                ago(waiter.waited_s),
                waiter.waits_for,
            )
            for waiter in device.waiters
        ]
        lines += table(("WAITING", "JOB", "PRIO (AGED)", "NEED", "SINCE", "FOR"), queue)
    if device.handover is not None:
        lines.append(f"NOW           -> {device.handover.to}  {handover_words(device.handover)}")
    if device.last_handover is not None:
        lines.append(f"LAST HAND-OVER {_moment(device.last_handover)} {handover_line(device.last_handover)}")
    return lines + [colour(f"! {sentence}", "bad") for sentence in device.unwell]


def _peak_line(holder: HolderView, peak: PeakView) -> str:
    """Return what one kind of work was seen to use, beside what its worker declares."""
    line = f"PEAK          {peak.work}  {size(peak.peak_bytes)} of {size(holder.need_bytes)} declared"
    return colour(f"{line}: more than that", "warn") if peak.over else line


def _lease_words(holder: HolderView) -> str:
    """Return the state of a lease, and what a person should know of it."""
    late_s = -holder.expires_in_s if holder.expires_in_s is not None else 0.0
    more = [f"not renewed, {ago(late_s)} over its time"] if holder.state == "stale" and late_s > 0 else []
    more += [f"nothing used for {ago(holder.idle_s)}"] if holder.idle_s is not None and holder.idle_s >= _IDLE_SHOWN_S else []
    return ", ".join((holder.state, *more))


def _stranger_line(one: StrangerView) -> str:
    words = f"NOT OURS      pid {one.pid}  {one.name or '?'}  {'an unknown size' if one.used_bytes is None else size(one.used_bytes)}"
    return colour(f"{words}  without a lease: waited for, not ended", "warn") if one.intruder else words


def _moment(handover: HandoverView) -> str:
    return datetime.fromtimestamp(time.time() - handover.ago_s, tz=UTC).astimezone().strftime("%H:%M:%S")


def handover_line(handover: HandoverView) -> str:
    """Return a hand-over with its evidence: who left for whom, and when each step was done, in seconds from the order."""
    steps = (
        ("exited", handover.exit_s),
        ("processes gone", handover.gone_s),
        ("memory back", handover.back_s),
        ("proved", handover.proof_s),
        ("next started", handover.spawned_s),
    )
    took = "  ".join(f"{name} {at_s:.2f} s" for name, at_s in steps if at_s is not None)
    return f"{', '.join(handover.leaving) or 'nobody'} -> {handover.to}  {took}"
