"""Parts of a self-contained HTML page: everything is escaped, nothing is fetched, light and dark both read well."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Record = Mapping[str, Any]

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5c6672;--line:#d8dee4;--page:#fff;--card:#f6f8fa;
--accent:#0b62c4;--mute:#8b96a3;--good:#1a7f37;--warn:#9a6700;--bad:#b42318}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa5b1;--line:#333b45;--page:#12161b;
--card:#1b2129;--accent:#6cb0ff;--mute:#6f7b88;--good:#56c271;--warn:#e0b040;--bad:#ff8072}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:24px;background:var(--page);
color:var(--ink);font:15px/1.5 system-ui,sans-serif}h1{font-size:26px;margin:0 0 4px}
h2{font-size:20px;margin:36px 0 4px;border-top:1px solid var(--line);padding-top:20px}
h3{font-size:15px;margin:22px 0 4px}p{margin:4px 0 10px;max-width:76ch}.soft{color:var(--soft)}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:14px 0}.tile{flex:1 1 220px;background:var(--card);
border:1px solid var(--line);border-radius:8px;padding:12px 14px}.tile b{display:block;font-size:24px;
line-height:1.25}.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:5px 10px 5px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:middle}
th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}
tr.own td{font-weight:600}.chip{border:1px solid currentColor;border-radius:10px;padding:0 8px;
font-size:12px;white-space:nowrap}.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.mute{color:var(--soft)}.pair{display:flex;flex-wrap:wrap;gap:28px;align-items:flex-start}
.pair>div{flex:1 1 380px;min-width:0}svg{max-width:100%;height:auto;display:block}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}nav a{margin-right:14px;color:var(--accent)}
code{font-size:12px;overflow-wrap:anywhere}
"""


def escape(value: object) -> str:
    """Return a value as text that cannot become markup.

    >>> escape("<b>&'")
    '&lt;b&gt;&amp;&#x27;'
    """
    return html.escape(str(value), quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for a person; what is undefined says so.

    >>> number(0.98765), number(1234567), number(float("nan"))
    ('0.988', '1,234,567', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a share with as many digits as a rare event needs.

    >>> percent(0.5), percent(0.0012), percent(None)
    ('50.0 %', '0.12 %', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    digits = 1 if value >= 0.1 or value == 0 else 2 if value >= 0.001 else 4
    return f"{100 * value:.{digits}f} %"


def interval(found: Record, digits: int = 3) -> str:
    """Return a figure with its range."""
    low, high = number(found["low"], digits), number(found["high"], digits)
    return f"{number(found['value'], digits)} <span class=soft>({low} to {high})</span>"


def chip(text: str, kind: str) -> str:
    """Return a small marked word; `kind` is good, warn, bad or mute."""
    return f'<span class="chip {kind}">{escape(text)}</span>'


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, own_row: int | None = None
) -> str:
    """Return a table of cells that are markup already; a head that starts with # is of numbers."""
    is_number = [head.startswith("#") for head in heads]
    marks = [' class="n"' if flag else "" for flag in is_number]
    head = "".join(
        f"<th{m}>{escape(h.lstrip('#'))}</th>" for h, m in zip(heads, marks, strict=True)
    )
    body = []
    for index, row in enumerate(rows):
        cells = "".join(f"<td{m}>{cell}</td>" for cell, m in zip(row, marks, strict=True))
        body.append(f"<tr{' class=own' if index == own_row else ''}>{cells}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def tile(title: str, figure: str, note: str) -> str:
    """Return a card with one figure; `figure` and `note` are markup already."""
    return f'<div class="tile"><span class=soft>{escape(title)}</span><b>{figure}</b>{note}</div>'


def whisker(found: Record, *, strong: bool) -> str:
    """Return a figure from 0 to 1 as a dot on its interval."""
    value, low, high = (found[key] for key in ("value", "low", "high"))
    if not all(v is not None and math.isfinite(v) for v in (value, low, high)):
        return ""
    at = [8 + 204 * min(max(v, 0.0), 1.0) for v in (low, value, high)]
    colour = "var(--accent)" if strong else "var(--mute)"
    return (
        '<svg width="220" height="18" role="img" '
        f'aria-label="{number(value)}, {number(low)} to {number(high)}">'
        '<line x1="8" x2="212" y1="9" y2="9" stroke="var(--line)"/>'
        f'<line x1="{at[0]:.1f}" x2="{at[2]:.1f}" y1="9" y2="9" stroke="{colour}" stroke-width="3"/>'
        f'<circle cx="{at[1]:.1f}" cy="9" r="5" fill="{colour}"/></svg>'
    )


def reliability(bins: Sequence[Record]) -> str:
    """Return predicted against observed rates on logarithmic axes, where rare events can be seen."""
    floor = min([b["predicted"] for b in bins] + [0.1])
    lowest = math.floor(math.log10(max(floor, 1e-6)))
    size, left, top = 230, 46, 10

    def place(value: float) -> float:
        return (max(math.log10(max(value, 1e-9)), lowest) - lowest) / -lowest * size

    parts = [
        f'<svg width="{left + size + 14}" height="{size + 46}" role="img" '
        'aria-label="observed against predicted rate of violations">'
    ]
    for power in range(lowest, 1):
        x, y = left + place(10.0**power), top + size - place(10.0**power)
        name = "1" if power == 0 else f"{10.0**power:g}"
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + size}" stroke="var(--line)"/>'
            f'<line x1="{left}" x2="{left + size}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{x:.1f}" y="{top + size + 15}" text-anchor="middle">{name}</text>'
            f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
        )
    parts.append(
        f'<line x1="{left}" y1="{top + size}" x2="{left + size}" y2="{top}" '
        'stroke="var(--soft)" stroke-dasharray="4 4"/>'
    )
    for b in bins:
        x, y = left + place(b["predicted"]), top + size - place(b["observed"])
        filled = "var(--accent)" if b["observed"] > 0 else "none"
        radius = 3 + min(4.0, math.sqrt(b["positives"]) / 4)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{filled}" '
            f'stroke="var(--accent)"><title>predicted {b["predicted"]:.4f}, observed '
            f"{b['observed']:.4f}, {b['rows']:.0f} rows</title></circle>"
        )
    parts.append(
        f'<text x="{left + size / 2}" y="{top + size + 31}" text-anchor="middle">predicted</text>'
        f'<text x="12" y="{top + size / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {top + size / 2})">observed</text></svg>'
    )
    return "".join(parts)


def document(title: str, body: Iterable[str], *, style: str = "") -> str:
    """Return a whole page that needs nothing from outside; `style` is added to the common one."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>"
        f"<body>{''.join(body)}</body></html>"
    )
