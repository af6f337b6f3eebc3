"""What an HTML page would ask the network for, read from its text: no browser is needed."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

# Attributes whose address is fetched or followed. A link that a reader may click counts: a self-contained page has none.
_ADDRESSES = frozenset(
    ("src", "href", "xlink:href", "action", "formaction", "data", "poster", "background", "ping", "manifest")
)
_LISTS = frozenset(("srcset", "imagesrcset"))
_CSS_URL = re.compile(r"""(?:url|src)\(\s*(?:"([^"]*)"|'([^']*)'|([^)"'\s]*))""", re.IGNORECASE)
_CSS_IMPORT = re.compile(r"""@import\s+(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_CSS_IMAGE_SET = re.compile(r"""image-set\(([^)]*)""", re.IGNORECASE)
_CSS_ESCAPE = re.compile(r"\\([0-9a-fA-F]{1,6})\s?|\\(.)", re.DOTALL)
_QUOTED = re.compile(r""""([^"]*)"|'([^']*)'""")
_CALLS = re.compile(
    r"\b(?:fetch|importScripts|import|sendBeacon|XMLHttpRequest|WebSocket|EventSource|WebTransport|RTCPeerConnection"
    r"|(?:Shared)?Worker|Audio|Image)\s*\(|\bimport\s*[\"']|\b(?:import|export)\b[^;\"']*\bfrom\s*[\"']"
    r"|\b(?:window|document|self|top|parent)?\.?location\s*=(?!=)|\.(?:src|href|srcset|action)\s*=(?!=)|\bwindow\.open\s*\("
)
_SCRIPT_ADDRESS = re.compile(r"""(?:https?:|wss?:|ftp:)?//[\w.-]+\.[\w-]+[^\s"'`<>)]*""")
_NAMESPACE = "http://www.w3.org/"


def external_requests(html: str) -> list[str]:
    """Everything in a page that would go out when it is opened or used: one entry `what: address` each, in order.

    Looked at are address attributes of all elements, `srcset`, `<meta http-equiv=refresh>`, `<base>`, `@import`, `url(...)` and
    `image-set(...)` in style sheets, style and presentation attributes, calls and addresses in scripts and event handlers, and
    pages inside `srcdoc`. `data:` addresses and fragments (`#id`) stay inside; XML namespaces are names, not addresses. A relative
    address counts: the page would ask for a second file.

    Args:
        html: the page's text.
    """
    finder = _Finder()
    finder.feed(html)
    finder.close()
    finder.handle_data(finder.rawdata)  # of a style sheet or script that nothing closes
    finder.end_text()
    return finder.found


class _Finder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._inside = ""
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        for name, value in given.items():
            where = f"<{tag} {name}>"
            if name in _ADDRESSES:
                self._address(where, value)
            elif name in _LISTS:
                for part in _candidates(value):
                    self._address(where, part)
            elif name == "srcdoc":
                self.found += [f"{where} {entry}" for entry in external_requests(value)]
            elif name.startswith("on"):
                self._script(where, value)
            elif not name.startswith(("xmlns", "aria-", "data-")) and name not in ("title", "alt", "content", "class"):
                self._style(where, value)
        if tag == "meta" and given.get("http-equiv", "").strip().lower() == "refresh":
            _, _, target = given.get("content", "").partition(";")
            if target.strip():
                self._address("<meta refresh>", re.sub(r"(?i)^\s*url\s*=", "", target).strip(" '\""))
        if tag in ("style", "script"):
            self.end_text()
            self._inside = tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self.end_text()

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._text.append(data)

    def end_text(self) -> None:
        """Examine the style sheet or script that ends here."""
        text, kind = "".join(self._text), self._inside
        self._text, self._inside = [], ""
        if kind == "style":
            self._style("<style>", text)
        elif kind == "script":
            self._script("<script>", text)

    def _address(self, where: str, address: str) -> None:
        # Browsers drop control characters and spaces from addresses before they read the scheme.
        plain = re.sub(r"[\x00-\x20]", "", address)
        if plain.lower().startswith("javascript:"):
            self._script(where, plain)
        elif plain and not plain.startswith("#") and _scheme(plain) not in ("data", "about"):
            self.found.append(f"{where}: {address.strip()}")

    def _style(self, where: str, text: str) -> None:
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        text = _CSS_ESCAPE.sub(lambda found: chr(min(int(found[1], 16), 0x10FFFF)) if found[1] else found[2], text)
        for pattern in (_CSS_URL, _CSS_IMPORT):
            for match in pattern.finditer(text):
                self._address(where, next((group for group in match.groups() if group), ""))
        for match in _CSS_IMAGE_SET.finditer(text):
            for quoted in _QUOTED.finditer(match[1]):
                self._address(where, quoted[1] or quoted[2] or "")

    def _script(self, where: str, text: str) -> None:
        for pattern in (_CALLS, _SCRIPT_ADDRESS):
            for match in pattern.finditer(text):
                if not match[0].startswith(_NAMESPACE):
                    self.found.append(f"{where}: {match[0].strip()}")


def _candidates(srcset: str) -> list[str]:
    """The addresses of a `srcset`; commas inside `data:` addresses do not separate."""
    return [part.rstrip(",") for part in re.findall(r"(?:^|,\s*|\s+)([^\s,]\S*)(?:\s+[\d.]+[wx])?", srcset.strip())]


def _scheme(address: str) -> str:
    try:
        return urlsplit(address).scheme.lower()
    except ValueError:
        return ""
