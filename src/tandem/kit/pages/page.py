"""Pages for people: one self-contained HTML file of sections and tables, readable on a phone and in the dark."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tandem.kit.pages.words import written

_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{style}</style></head><body><main>
{body}
</main></body></html>
"""

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2330;--soft:#667085;--line:#e3e6ec;--page:#fff;--card:#f7f8fa;
--main:#2f6fed;--faint:#b9cdf9;--held:#d9480f;--good:#2b8a3e;--bad:#c92a2a}
@media(prefers-color-scheme:dark){:root{--ink:#e7e9ee;--soft:#98a2b3;--line:#2c313c;--page:#14171d;--card:#1b1f27;
--main:#7aa5ff;--faint:#34487a;--held:#ff8c5a;--good:#69db7c;--bad:#ff8787}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:980px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:24px;margin:0;overflow-wrap:anywhere}h2{font-size:17px;margin:36px 0 10px}
h3{font-size:15px;margin:18px 0 6px}
p{margin:4px 0 0}.soft,figcaption,dt,th{color:var(--soft)}.state{font-weight:600}
dl.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px;margin:18px 0 0}
dl.facts div{background:var(--card);border-radius:8px;padding:10px 12px}
dl.facts dt{font-size:12px}dl.facts dd{margin:2px 0 0;font-size:18px;font-weight:600;font-variant-numeric:tabular-nums}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:16px}
figure{margin:0;background:var(--card);border-radius:8px;padding:10px 12px}figcaption{font-size:13px}
svg{display:block;width:100%;height:auto}svg text{font-size:11px;fill:var(--soft)}
.grid{stroke:var(--line);fill:none}.axis{stroke:var(--soft);fill:none}
.mark{stroke:var(--bad);stroke-dasharray:3 3;fill:none}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round}.line.main{stroke:var(--main)}.line.faint{stroke:var(--faint)}
.dots.main{fill:var(--main)}.dots.held{fill:var(--held)}
.key::before{content:"";display:inline-block;width:9px;height:9px;border-radius:50%;margin:0 4px 0 8px}
.key.main::before{background:var(--main)}.key.faint::before{background:var(--faint)}.key.held::before{background:var(--held)}
.bar{display:flex;height:22px;border-radius:6px;overflow:hidden;background:var(--line)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:500;font-size:13px}td.wide{overflow-wrap:anywhere;min-width:160px}
.swatch{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}
"""


def page(title: str, sections: Iterable[str], *, style: str = "") -> str:
    """A whole page; what is empty is left out. `style` is CSS of the page's own."""
    return _HTML.format(title=escape(title), style=_STYLE + style, body="\n".join(filter(None, sections)))


def section(title: str, body: str) -> str:
    """A heading and what is under it; nothing where there is nothing."""
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def facts_table(facts: Iterable[tuple[str, Any]]) -> str:
    """Keys and values, one row each."""
    rows = [(key, written(value)) for key, value in facts]
    return table((), rows) if rows else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, raw: bool = False) -> str:
    """A table that scrolls by itself on a narrow screen; cells are escaped unless they are `raw` HTML of ours."""
    top = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    head = f"<thead><tr>{top}</tr></thead>" if headings else ""
    body = "".join(f"<tr>{''.join(_cell(str(cell), raw=raw) for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>"


def _cell(text: str, *, raw: bool) -> str:
    shown = text if raw else escape(text)
    return f"<td class=wide>{shown}</td>" if len(text) > 40 and not raw else f"<td>{shown}</td>"


def inline(told: Mapping[str, Any]) -> str:
    """Keys and values in a line of text."""
    return ", ".join(f"{key.replace('_', ' ')} {written(value)}" for key, value in told.items())
