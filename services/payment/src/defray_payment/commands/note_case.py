"""Write a note to a case: what was found, asked, agreed; never changed, audited in the same transaction."""

import msgspec

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.ids import CaseId, show
from defray_payment.domain.refusals import CaseRefusal
from defray_payment.store import cases
from defray_payment.store.cases import Note


class NoteCase(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes what to which case."""

    case_id: CaseId
    actor: str
    text: str


async def handle(command: NoteCase, tx: WriteTx, clock: Clock) -> CaseRefusal | None:
    """Add the note, also to a resolved case. None when done."""
    if await cases.lock(tx, command.case_id) is None:
        return CaseRefusal.NOT_FOUND
    note = Note(author=command.actor, text=command.text, written_at=clock.now())
    await cases.add_note(tx, command.case_id, note)
    # The text is kept with the case; the audit log says that it was written.
    subject = show("case", command.case_id)
    await audit.append(tx, actor=command.actor, action="payment.case.note", subject=subject, clock=clock, detail={})
    return None
