"""Says where a line may end inside of code. `extra.css` says where these places count."""

import re
from html import unescape

_SHORT = 32  # Characters that fit into a line of a phone.


def allow(html: str) -> str:
    """A page whose code in sentences and tables may break between the parts of names.

    Code that fits into a line of a phone gets the class ``short``. Blocks of code stay as they are.
    """
    return re.sub(r"<code>([^<\n]+)</code>", _with_breaks, html)


def _with_breaks(match: re.Match[str]) -> str:
    """The code; numbers stay whole, and the last letters of a file stay with its name."""
    code = re.sub(r"(?<=\w)([_/=]|\.(?!\d|\w{1,5}$))(?=\w)", r"\1<wbr>", match[1])
    kind = ' class="short"' if len(unescape(match[1])) <= _SHORT else ""
    return f"<code{kind}>{code}</code>"
