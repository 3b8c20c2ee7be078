"""Numbers, shares and moments as people read them on the page."""

from datetime import UTC, datetime


def number(value: float) -> str:
    """Four digits, thousands set apart."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"


def share(value: float) -> str:
    """Percent, with a digit more where it is little; what is not all or nothing never reads so."""
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    return f"{value:.1%}" if value < 0.1 or value > 0.99 else f"{value:.0%}"


def moment(seconds: float) -> str:
    """Day and minute in UTC; the number itself where no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return number(seconds)


def counted(count: int, what: str) -> str:
    """A number of things, one of which is called `what`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def size(num_bytes: int) -> str:
    """Bytes in the unit that fits."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
