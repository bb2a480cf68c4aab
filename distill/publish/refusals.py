"""What went wrong on the way to the Hub, in sentences that say what to do."""

from __future__ import annotations

import os
from dataclasses import dataclass

KEPT = "What arrived is kept: run the same command again."
LOGIN = ("Make a token with write access in the settings of your account on the Hub, then run "
         "`hf auth login --force` or set HF_TOKEN.")


@dataclass(frozen=True)
class Trouble:
    """An error in words; `may_pass`: trying again may help."""

    text: str
    may_pass: bool = False


def explain(error: BaseException, repo_id: str, account: dict | None) -> Trouble:
    """Say what an error of the client means.

    Args:
        account: what the Hub answered to the token; None before it did.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # the client wraps what its upload threads raise
    if isinstance(error, OfflineModeIsEnabled):
        return Trouble("HF_HUB_OFFLINE is set, so nothing is sent: unset it")
    if isinstance(error, OSError) and error.filename is not None:
        return Trouble(f"cannot read {error.filename}: {error.strerror}")
    if isinstance(error, PermissionError):  # of the client's storage, which has tokens of its own
        return Trouble(_unknown_token(account))
    if not isinstance(error, HfHubHTTPError):
        detail = str(error).strip() or type(error).__name__
        return Trouble(f"the connection to the Hub broke ({detail}). {KEPT} Where large files "
                       "never arrive, HF_HUB_DISABLE_XET=1 sends them over plain HTTP", True)
    status, message = error.response.status_code, _server_message(error)
    if status == 401:
        return Trouble(_unknown_token(account) + message)
    if status == 403:
        if error.response.request.method == "PUT":  # the address of an upload ran out
            return Trouble(f"the Hub no longer takes the upload (403). {KEPT}{message}", True)
        return Trouble(_no_right(repo_id, account) + message)
    if status == 404:
        return Trouble(f"there is no {repo_id} on the Hub, or this token may not see it{message}")
    if status in (409, 412):
        return Trouble(f"somebody else changed {repo_id} meanwhile ({status}){message}", True)
    if status == 429:
        return Trouble(f"the Hub asks for patience (429). {KEPT}{message}", True)
    if status >= 500 or status == 408:
        return Trouble(f"the Hub has trouble ({status}). {KEPT}{message}", True)
    return Trouble(f"the Hub refuses ({status}){message}")


def _server_message(error) -> str:
    """The server's own words, last."""
    words = " ".join((error.server_message or "").split())
    return f" (the Hub says: {words})" if words else ""


def token_source() -> str:
    return "HF_TOKEN" if os.environ.get("HF_TOKEN") else "`hf auth login`"


def _unknown_token(account: dict | None) -> str:
    if account is None:
        return (f"the Hub does not know the token of {token_source()}: it is mistyped, revoked or "
                f"expired. {LOGIN}")
    return (f"the Hub no longer takes the token of {token_source()}: it expired or was revoked "
            f"meanwhile. {LOGIN} {KEPT}")


def _no_right(repo_id: str, account: dict | None) -> str:
    owner, account = repo_id.split("/")[0], account or {}
    name = account.get("name", "this account")
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    owners = [name, *(each["name"] for each in account.get("orgs", []))]
    if role == "read":
        return f"the token of {token_source()} may only read. {LOGIN}"
    if owner not in owners:
        return (f"{name} may not write to {repo_id}: {owner} is somebody else (you can write to "
                f"{', '.join(owners)}). Change the name, or log in as somebody who may")
    if role == "fineGrained":
        return (f"the token of {token_source()} is fine-grained and has no right to write to "
                f"{repo_id}: give it one in the settings of your account on the Hub")
    return f"{name} may not write to {repo_id}: ask an administrator of {owner} for write access"
