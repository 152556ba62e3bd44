"""The section that tells what can be checked: what is locked, sealed, signed and recorded, and the digests."""

from __future__ import annotations

from reprobox.preview.content import Page
from reprobox.preview.markup import Markup, join, tag
from reprobox.preview.parts import NONE, block, listed, table


def verification(page: Page) -> Markup:
    checks = [_locked(page), _sealed(page), _vouched(page), _recorded(page)]
    note = (
        "This page says what was known when it was written; it proves nothing. These commands check it on your machine:"
    )
    signed = ["reprobox verify -C project --attestations attestations"] if page.vouchers else []
    commands = "\n".join(("reprobox verify -C project", "reprobox realize -C project", *signed))
    return join(
        tag("ul", *checks, class_="checks"),
        _voucher_table(page) if page.vouchers else None,
        _run_table(page) if page.runs else None,
        _digest_table(page),
        tag("p", note),
        block(commands, "Commands"),
    )


def keys(page: Page) -> str:
    count = len({voucher.key for voucher in page.vouchers})
    return "1 key" if count == 1 else f"{count} keys"


def _good(word: str, text: str) -> Markup:
    return _check("good", "✓", word, text)


def _open(word: str, text: str) -> Markup:
    return _check("open", "○", word, text)


def _check(kind: str, sign: str, word: str, text: str) -> Markup:
    mark = tag("span", sign, aria_hidden="true", class_="sign")
    return tag("li", mark, tag("strong", word), f" {text}", class_=kind)


def _locked(page: Page) -> Markup:
    loose = sorted({layer.name for target in page.targets for layer in target.layers if not layer.pinned})
    if loose:
        text = f"but for what the steps of {listed(loose)} take from the network, which no hash names."
        return _open("Locked,", text)
    return _good("Locked.", "Every input is named by its SHA-256 hash.")


def _sealed(page: Page) -> Markup:
    sealed = [target.name for target in page.targets if target.sealed]
    if not sealed:
        return _open("Not sealed.", "Inputs are locked; what building them gives was not recorded.")
    if len(sealed) < len(page.targets):
        return _open("Sealed in part.", f"The results of building {listed(sealed)} are recorded, the others' are not.")
    return _good("Sealed.", "What building gives was recorded: whoever builds it again must get the same bytes.")


def _vouched(page: Page) -> Markup:
    if not page.vouchers:
        return _open("Nobody vouches.", "No signed statement of a rebuild is enclosed.")
    says = "Statements are enclosed that it was built again and gave the recorded results; whether the signatures hold,"
    return _good(f"Signed by {keys(page)}.", f"{says} is for you to check with the keys that you believe.")


def _recorded(page: Page) -> Markup:
    count = len(page.runs)
    if not count:
        return _open("No run is recorded.", "How the results were made is not part of this package.")
    return _good(f"{count} run{'s' if count != 1 else ''} recorded.", "What ran, on which inputs, with which results.")


def _voucher_table(page: Page) -> Markup:
    rows = [
        (
            tag("th", item.who or "A key", scope="row"),
            tag("td", _moment(item.when)),
            tag("td", item.says or NONE),
            tag("td", tag("code", item.key, class_="whole")),
        )
        for item in page.vouchers
    ]
    return table("Signed statements", ("Name", "When", "Says", "Key"), rows)


def _moment(when: str) -> Markup:
    """A moment of RFC 3339 as people write it."""
    return tag("time", when.replace("T", " ").replace("Z", " UTC"), datetime=when) if when else tag("span", NONE)


def _run_table(page: Page) -> Markup:
    rows = [
        (
            tag("th", tag("code", item.command), scope="row"),
            tag("td", item.target or NONE),
            tag("td", item.who or NONE),
            tag("td", _moment(item.ended)),
            tag("td", str(item.status), class_="number"),
            tag("td", f"{item.outputs:,}", class_="number"),
        )
        for item in page.runs
    ]
    return table("Recorded runs", ("Command", "Target", "Who", "Ended", "#Exit status", "#Files written"), rows)


def _digest_table(page: Page) -> Markup:
    said = [("research.lock", page.lock), ("Manifest, as it is read", page.manifest)]
    for target in page.targets:
        of = f" of {target.name}" if len(page.targets) > 1 else ""
        said += [(f"Image{of}", target.image_digest), (f"File tree{of}", target.tree_digest)] if target.sealed else []
    rows = [(tag("th", name, scope="row"), tag("td", tag("code", digest, class_="whole"))) for name, digest in said]
    return table("Digests (sha256)", ("Of what", "Digest"), rows)
