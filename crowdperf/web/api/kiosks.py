"""Kiosks: the devices at which visitors check in and out by the code of their badge, and nothing else."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import Response, Router, get, post, put
from litestar.params import JSONBody
from msgspec import Meta, Struct

from crowdperf.accounts import principal as model
from crowdperf.accounts.credentials import build_kiosk_link, generate_secret, hash_secret
from crowdperf.accounts.principal import AccountError, AccountName
from crowdperf.web.auth import require_same_origin
from crowdperf.web.parameters import errors, format_rfc3339, post_action
from crowdperf.web.problems import forbidden
from crowdperf.web.schemas import Time
from crowdperf.web.sign_in import SessionReply, open_session, register_attempt, to_session_reply
from crowdperf.web.state import AppDependency, ContextDependency


class NewKiosk(Struct, kw_only=True, forbid_unknown_fields=True):
    """A new kiosk, or one that gets a new link."""

    name: AccountName


class KioskMade(Struct, kw_only=True):
    """A kiosk with its link, which is shown once."""

    name: str
    link: Annotated[str, Meta(description="Open it below the site's address, on the device. It opens once.")]
    expires: Time


class KioskLink(Struct, kw_only=True, forbid_unknown_fields=True):
    """What follows the # of the link."""

    name: AccountName
    secret: Annotated[str, Meta(min_length=1, max_length=128)]


class SessionLimit(Struct, kw_only=True, forbid_unknown_fields=True):
    """What confirms that this browser becomes a kiosk."""

    kiosk: Literal[True]


class KioskRules(Struct, kw_only=True):
    """What a visitor has to accept at the check-in; empty for nothing."""

    briefing: str
    nda_version: str


@post("/kiosks", need="admin", summary="Make a kiosk, or its new link", responses=errors(400, 409, 503))
async def make_kiosk(context: ContextDependency, data: JSONBody[NewKiosk]) -> KioskMade:
    """Create an account of the role `kiosk` without a password, and the link that signs its device in.

    A new link signs the device out that had the earlier one. Removing or locking the account revokes it.
    """
    secret = generate_secret()
    account = model.build_kiosk(data.name, hash_secret(secret), context.app.now())
    entry = context.build_audit_entry("kiosk.link", data.name)
    await context.app.accounts.edit(lambda rows: model.add_kiosk(rows, account), entry)
    return KioskMade(
        name=data.name, link=build_kiosk_link("", data.name, secret), expires=format_rfc3339(account.link_ends_at)
    )


@post_action("/kiosk-session", need="open", summary="Sign a kiosk in", responses=errors(400, 429, 503))
async def sign_in_kiosk(context: ContextDependency, data: JSONBody[KioskLink]) -> Response[SessionReply]:
    """Make this browser the kiosk by its link. It stays signed in until it is revoked."""
    require_same_origin(context.request)
    app = context.app
    await register_attempt(context, "the link of a kiosk")
    link = hash_secret(data.secret)
    entry = context.build_audit_entry("kiosk.open", data.name)
    try:
        accounts = await app.accounts.edit(lambda rows: model.open_kiosk(rows, data.name, link, app.now()), entry)
    except AccountError as error:
        raise forbidden(str(error)) from None
    await app.sign_in_limiter.record_success("the link of a kiosk", context.address)
    return await open_session(context, accounts[data.name], is_kiosk=True)


@put("/session/kiosk", need="kiosk", summary="Make this browser a kiosk", responses=errors(400, 503))
async def limit_session(context: ContextDependency, data: JSONBody[SessionLimit]) -> SessionReply:
    """Take all but check-in and check-out from the caller's session, until the next sign-in.

    Who finds the browser can then read or change nothing more. The session ends like any other.
    """
    if context.principal.kind != "session":
        raise forbidden("this is for a browser that is signed in with a password. Remedy: sign in.")
    entry = context.build_audit_entry("session.limit", context.principal.name)
    await context.app.accounts.limit_to_kiosk(context.principal.session, entry)
    limited = await context.app.accounts.refresh_principal(context.principal, context.app.now())
    return to_session_reply(limited or context.principal)


@get("/kiosk", need="kiosk", summary="What a visitor has to accept", responses=errors())
async def rules(app: AppDependency) -> KioskRules:
    """Return what the kiosk asks of a visitor."""
    return KioskRules(briefing=app.config.visitors.briefing, nda_version=app.config.visitors.nda_version)


router = Router("/", tags=["visitors"], route_handlers=[make_kiosk, sign_in_kiosk, limit_session, rules])
