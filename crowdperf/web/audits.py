"""How well each line counts: the last audits, by themselves and beside the counts."""

from __future__ import annotations

import msgspec
from litestar import Router, get

from crowdperf.settings.fingerprint import fingerprint
from crowdperf.storage.audits import LineAudit, read
from crowdperf.web.access import Who
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import BAD_REQUEST, NOT_FOUND, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import CameraFilter, rfc3339
from crowdperf.web.replies import AuditReply, AuditsReply, CountAudit, CountRow, FiguresReply


@get(
    "/audits",
    need="read",
    summary="How well the lines count",
    tags=["history"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def audits(site: SiteContext, who: Who, camera: CameraFilter = None) -> AuditsReply:
    """The last audit of each line: precision, recall and count error with their confidence intervals.

    An audit is made with `crowdperf audit` from a recording whose true crossings were marked (docs/replay.md).
    """
    wanted = [site.camera(camera, who)] if camera is not None else site.cameras(who)
    found: list[AuditReply] = []
    for one in wanted:
        stored = await read(site.redis, one.id, site.prefix)
        found += [_reply(site, stored[line.id]) for line in one.lines if line.id in stored]
        known = {line.id for line in one.lines}
        # A line that is gone: its counts are still in the history, and so is what they are worth.
        found += [_reply(site, stored[line]) for line in sorted(stored) if line not in known]
    return AuditsReply(audits=found)


def _reply(site: Context, audit: LineAudit) -> AuditReply:
    return AuditReply(
        camera=audit.camera,
        line=audit.line,
        time=rfc3339(audit.at),
        stale=_stale(site, audit),
        clip=audit.clip,
        clip_s=audit.clip_s,
        model=audit.model,
        within_s=audit.within_s,
        total=msgspec.convert(audit.total, FiguresReply, from_attributes=True),
        directions={
            way: msgspec.convert(figures, FiguresReply, from_attributes=True)
            for way, figures in audit.directions.items()
        },
    )


async def beside(site: Context, rows: list[CountRow]) -> list[CountRow]:
    """The rows, each with the audit of its line where it names one that has been audited.

    Whoever may see a row's counts may see what they are worth.
    """
    cameras = {row.camera for row in rows if row.camera and row.line}
    stored = {camera: await read(site.redis, camera, site.prefix) for camera in sorted(cameras)}
    for row in rows:
        audit = stored.get(row.camera, {}).get(row.line)
        if audit is not None:
            figures = audit.directions.get(row.direction, audit.total) if row.direction else audit.total
            row.audit = CountAudit(
                time=rfc3339(audit.at),
                stale=_stale(site, audit),
                figures=msgspec.convert(figures, FiguresReply, from_attributes=True),
            )
    return rows


def _stale(site: Context, audit: LineAudit) -> bool:
    """Whether the line is another one by now, or gone."""
    return audit.fingerprint not in {
        fingerprint(line)
        for camera in site.slice.cameras
        for line in camera.lines
        if (camera.id, line.id) == (audit.camera, audit.line)
    }


router = Router("/", route_handlers=[audits])
