"""`external_requests` finds every way by which a page reaches out, and lets what stays inside the page alone."""

from __future__ import annotations

import pytest
from pt_core.testing.html import external_requests

OUTSIDE = {
    "image": '<img src="https://x.example/a.png">',
    "protocol-relative": "<img src=//x.example/a.png>",
    "relative": '<img src="a.png">',
    "file": '<img src="file:///a.png">',
    "capitals": '<IMG SRC="HTTPS://x.example/a.png">',
    "broken scheme": '<img src="ht\ntps://x.example/a.png">',
    "entity": '<img src="https&#58;//x.example/a.png">',
    "script": '<script src="a.js"></script>',
    "link": '<link rel="stylesheet" href="style.css">',
    "anchor": '<a href="https://x.example">more</a>',
    "form": '<form action="https://x.example/post"></form>',
    "button": '<button formaction="/post">go</button>',
    "frame": '<iframe src="page.html"></iframe>',
    "frame inside": '<iframe srcdoc="<img src=https://x.example/a.png>"></iframe>',
    "object": '<object data="a.pdf"></object>',
    "video": '<video poster="a.png"><source src="a.mp4"></video>',
    "srcset": '<img srcset="data:image/png;base64,AAAA 1x, https://x.example/a.png 2x">',
    "svg image": '<svg><image xlink:href="a.png"/></svg>',
    "svg use": '<svg><use href="icons.svg#a"/></svg>',
    "svg fill": '<svg><path fill="url(https://x.example/a.svg#p)"/></svg>',
    "base": '<base href="https://x.example/">',
    "refresh": '<meta http-equiv="refresh" content="0; url=https://x.example">',
    "import": '<style>@import "https://x.example/a.css";</style>',
    "import url": "<style>@import url(https://x.example/a.css);</style>",
    "font": "<style>@font-face { src: url('a.woff2') }</style>",
    "escaped": r"<style>a { background: \75rl(https://x.example/a.png) }</style>",
    "commented": "<style>a { background: u/* */rl(a.png) }</style>",
    "image set": '<style>a { background: image-set("a.png" 1x) }</style>',
    "attribute style": '<p style="background: url(a.png)"></p>',
    "fetch": '<script>fetch("/a")</script>',
    "request": "<script>new XMLHttpRequest()</script>",
    "socket": '<script>new WebSocket(a + "b")</script>',
    "module": '<script type="module">import {a} from "./a.js"</script>',
    "dynamic import": '<script>import("./a.js")</script>',
    "picture by script": "<script>new Image().src = address</script>",
    "move": '<script>location = "a"</script>',
    "address in a script": '<script>const a = "https://x.example/a"</script>',
    "handler": "<p onclick=\"fetch('/a')\"></p>",
    "script link": "<a href=\"javascript:fetch('/a')\">a</a>",
    "unclosed": "<style>@import 'a.css'",
}
INSIDE = {
    "text": "<p>see https://x.example, url(a.png) and fetch(a)</p>",
    "escaped markup": "<p>&lt;img src=https://x.example/a.png&gt;</p>",
    "comment": '<!-- <img src="a.png"> -->',
    "data picture": '<img src="data:image/png;base64,AAAA" alt="url(a.png)">',
    "data icon": '<link rel="icon" href="data:,">',
    "data srcset": '<img srcset="data:image/png;base64,AAAA 1x, data:image/png;base64,BBBB 2x">',
    "fragment": '<a href="#top">top</a><svg><use xlink:href="#a"/><path clip-path="url(#b)"/></svg>',
    "namespace": '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"></svg>',
    "namespace in a script": '<script>make("http://www.w3.org/2000/svg", "svg")</script>',
    "policy": '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:">',
    "plain style": "<style>a > b { color: rgb(1 2 3 / .5) } /* https://x.example */</style>",
    "plain script": "<script>const a = b / c; // sorts\nif (a == location) a.sort();</script>",
    "reload": '<meta http-equiv="refresh" content="5">',
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_goes_out_is_found(kind: str) -> None:
    assert external_requests(OUTSIDE[kind])
    assert external_requests(f"<!doctype html><html><body><p>text</p>{OUTSIDE[kind]}</body></html>")


@pytest.mark.parametrize("kind", INSIDE)
def test_what_stays_inside_is_let_alone(kind: str) -> None:
    assert external_requests(INSIDE[kind]) == []


def test_entries_name_element_and_address_in_order() -> None:
    page = '<img src="a.png"><style>@import "b.css"</style><iframe srcdoc="<img src=c.png>"></iframe>'
    assert external_requests(page) == [
        "<img src>: a.png",
        "<style>: b.css",
        "<iframe srcdoc> <img src>: c.png",
    ]
