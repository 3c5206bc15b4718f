"""Where data may be, and the log of every decision: to read, and to check without trusting us."""

import msgspec
from fastapi import APIRouter, Request, Response

from cloud.api.nodes import fleet_of
from cloud.api.schema import answer, returns
from shared.audit_views import AuditPage, ProofView, ResidencyView
from shared.transparency import Head

router = APIRouter(tags=["residency"])


class LogHead(msgspec.Struct, frozen=True, kw_only=True):
    """``size``: records there are; ``head``: the newest signed one, over fewer perhaps."""

    size: int
    head: Head | None


@router.get("/residency", responses=returns(ResidencyView), summary="Show what is in force")
async def residency(request: Request) -> Response:
    """The policy in force, where each node was enrolled, the state of the audit log."""
    return answer(await fleet_of(request).residency())


@router.get("/audit", responses=returns(AuditPage), summary="Read the audit log")
async def audit(request: Request, first: int = 0) -> Response:
    """Up to 100 records from ``first`` on; a negative number counts from the end."""
    return answer(await fleet_of(request).audit(first))


@router.get("/audit/head", responses=returns(LogHead), summary="Show the newest head")
async def head(request: Request) -> Response:
    """Keep it: with a later one and a proof of consistency it shows that nothing was changed."""
    page = await fleet_of(request).audit(-1)
    return answer(LogHead(size=page.size, head=page.head))


@router.get("/audit/proof", responses=returns(ProofView), summary="Prove that a record is in the log")
async def proof(request: Request, index: int, size: int = 0) -> Response:
    """Of the tree of ``size`` records; 0: that of the newest head. RFC 9162, section 2.1.3.2 checks it."""
    return answer(await fleet_of(request).proof(index=max(0, index), size=size))


@router.get("/audit/consistency", responses=returns(ProofView), summary="Prove that the log only grew")
async def consistency(request: Request, old: int, size: int = 0) -> Response:
    """That the first ``old`` records are the beginning of ``size``. RFC 9162, section 2.1.4.2 checks it."""
    return answer(await fleet_of(request).proof(old=old, size=size))
