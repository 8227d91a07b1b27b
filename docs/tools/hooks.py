"""References in docstrings, such as ``:func:`pcvpt.create_model```, become links."""

import re
from typing import Any

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([\w.]+)(?:\(\))?</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Leave each reference to mkdocs-autorefs, which knows where each name is documented."""

    def refer(role: re.Match[str]) -> str:
        short = role[1].rpartition(".")[2]
        return f'<autoref identifier="{role[1]}" optional><code>{short}</code></autoref>'

    return _ROLE.sub(refer, html)
