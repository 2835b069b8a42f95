"""A page for people to keep: one HTML file that is also well-formed XML, readable on a phone and in the dark."""

import re
from html import escape

# XML has no place for these, not even as references.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2330;--soft:#667085;--line:#e3e6ec;--page:#fff;--card:#f7f8fa;--main:#2f6fed;
--warm:#d9480f}
@media(prefers-color-scheme:dark){:root{--ink:#e7e9ee;--soft:#98a2b3;--line:#2c313c;--page:#14171d;--card:#1b1f27;
--main:#7aa5ff;--warm:#ff8c5a}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:760px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:24px;margin:0;overflow-wrap:anywhere}h2{font-size:17px;margin:32px 0 8px;overflow-wrap:anywhere}
p{margin:6px 0}ul{padding-left:20px;margin:6px 0}li{margin:3px 0}.soft{color:var(--soft)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}.grid td{overflow-wrap:break-word}
th{font-weight:500;font-size:13px;color:var(--soft);white-space:nowrap}
svg{display:block;width:100%;height:auto;margin:16px 0}
"""


def page(title: str, body: str) -> str:
    """A whole page around a body of our own; the title is text."""
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body><main>\n{body}\n</main></body></html>\n"
    )


def text(value: object) -> str:
    """A value as text between tags or in an attribute."""
    return escape(_UNPRINTABLE.sub("\ufffd", str(value)))


def rows(pairs: list[tuple[str, str]]) -> str:
    """Keys and values, one row each."""
    body = "".join(f"<tr><th>{text(key)}</th><td>{text(value)}</td></tr>" for key, value in pairs)
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>' if pairs else ""


def grid(headings: tuple[str, ...], cells: list[tuple[str, ...]]) -> str:
    """A table that scrolls by itself on a narrow screen."""
    top = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in cells)
    return f'<div class="scroll"><table class="grid"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
