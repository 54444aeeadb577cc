"""The agent asks: what would be done, where, why it is asked; and the person's answer.

    app.push_screen(ApprovalScreen(asked.requests, asked.facts, judge=judge_of(session.permissions)), answer)

Several calls may wait at once: they are answered one by one or together, and the screen goes when all are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.markup import escape
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import ContentSwitcher, Footer, OptionList
from textual.widgets.option_list import Option

from kodkod_agent.approval import Approval
from kodkod_agent.events import ApprovalRequest
from kodkod_agent.policy import Verdict
from kodkod_agent.rules import Rule
from kodkod_app.tui.inert import inert, inert_line
from kodkod_app.tui.screens.approval_forms import ArgumentsForm, RefusalForm, RuleForm
from kodkod_app.tui.screens.call_text import call_content, deed_of, subject_of
from kodkod_app.tui.screens.judging import Judge
from kodkod_app.tui.screens.once import Once
from kodkod_app.tui.updates import CallFacts
from kodkod_app.tui.widgets.diff import DiffView
from kodkod_app.tui.widgets.entry import PlainText

SaveRules = Callable[[tuple[Rule, ...]], None]
"""Keeps rules for later sessions."""
_CHOICES, _RULE, _REFUSAL, _ARGUMENTS = "choices", "rule-form", "refusal-form", "arguments-form"


class Sheet(Vertical):
    """What is asked; it says how much of the chat it leaves to be seen."""

    @dataclass
    class Laid(Message):
        """It has a place now, or another one."""

        top: int
        """The line of the screen it begins at."""

    def on_resize(self) -> None:
        """It grew or shrank, or the window did."""
        self.post_message(self.Laid(self.region.y))


class ApprovalScreen(ModalScreen[tuple[Approval, ...] | None], Once[tuple[Approval, ...] | None]):
    """See the module. Dismisses one answer per request, in their order; None interrupts the run."""

    DEFAULT_CSS = """
    ApprovalScreen { align: center bottom; background: $background 40%; }
    ApprovalScreen #sheet {
        height: auto; max-height: 100%; padding: 0 1; background: $surface;
        border: round $warning; border-title-color: $text-warning; border-title-style: bold;
        border-subtitle-color: $text-muted;
    }
    ApprovalScreen #pending { height: auto; margin-bottom: 1; }
    ApprovalScreen #call {
        height: auto; max-height: 50vh; margin: 1 0; padding: 0 1; border-left: outer $primary-muted;
        scrollbar-size-vertical: 1;
    }
    ApprovalScreen #call:focus { border-left: outer $primary; }
    ApprovalScreen #why { color: $text-muted; margin-bottom: 1; }
    ApprovalScreen #answer { height: auto; }
    ApprovalScreen OptionList, ApprovalScreen OptionList:focus {
        height: auto; border: none; padding: 0; background: transparent;
    }
    ApprovalScreen .form-head { color: $text-muted; }
    ApprovalScreen.-low #why, ApprovalScreen.-lower #why { margin-bottom: 0; }
    ApprovalScreen.-low #pending, ApprovalScreen.-lower #pending { margin-bottom: 0; }
    ApprovalScreen.-low #call { max-height: 45vh; margin: 0; }
    ApprovalScreen.-lower #call { max-height: 30vh; margin: 0; }
    ApprovalScreen.-form #call { max-height: 30vh; }
    ApprovalScreen.-low #fields, ApprovalScreen.-lower #fields { max-height: 33vh; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "once", "Allow"),
        Binding("a", "always", "Always"),
        Binding("e", "edit", "Edit"),
        Binding("n", "refuse", "Refuse"),
        Binding("Y", "all_once", "All", key_display="Y"),
        Binding("N", "none", "None", key_display="N"),
        Binding("left", "go(-1)", "Before", show=False),
        Binding("right", "go(1)", "Next", show=False),
        Binding("right_square_bracket", "go(1)", "Next", key_display="← →"),
        Binding("pageup", "scroll(-1)", "Scroll", show=False, priority=True),
        Binding("pagedown", "scroll(1)", "Scroll", show=False, priority=True),
        Binding("escape", "back", "Back"),
        Binding("escape", "leave", "Stop"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-lower"), (20, "-low"), (32, "-high")]  # noqa: RUF012 - no class variable to Textual

    def __init__(
        self,
        requests: Sequence[ApprovalRequest],
        facts: Sequence[CallFacts],
        *,
        judge: Judge | None = None,
        save_rules: SaveRules | None = None,
    ) -> None:
        """Ask.

        Args:
            requests: at least one.
            facts: one per request.
            judge: checks rules and changed arguments before they are taken.
            save_rules: offered when given.
        """
        super().__init__()
        self._requests = tuple(requests)
        self._facts = tuple(facts)
        self._answers: dict[int, Approval] = {}
        self._at = 0
        self._judge = judge
        self._save_rules = save_rules

    def compose(self) -> ComposeResult:
        """One sheet at the foot of the screen, and the keys under it."""
        with Sheet(id="sheet"):
            yield PlainText(id="pending")
            yield PlainText(id="what")
            yield VerticalScroll(id="call")
            yield PlainText(id="why")
            with ContentSwitcher(initial=_CHOICES, id="answer"):
                yield OptionList(id=_CHOICES)
                yield RuleForm(can_save=self._save_rules is not None, id=_RULE)
                yield RefusalForm(id=_REFUSAL)
                yield ArgumentsForm(id=_ARGUMENTS)
        yield Footer(show_command_palette=False)

    async def on_mount(self) -> None:
        """Show the first."""
        await self._show()

    @property
    def _request(self) -> ApprovalRequest:
        return self._requests[self._at]

    @property
    def _rules(self) -> tuple[Rule, ...]:
        return self._facts[self._at].rules

    async def _show(self) -> None:
        """Put the current request before the person."""
        request, count = self._request, len(self._requests)
        sheet = self.query_one("#sheet")
        deed = escape(deed_of(request.call))
        sheet.border_title = f"May it {deed}?" if count == 1 else f"{count} calls wait for your word"
        pending = self.query_one("#pending", PlainText)
        pending.show(self._pending())
        pending.display = count > 1
        where = inert_line(self._facts[self._at].where, 200)
        name = (inert_line(request.call.name, 40), "bold")
        self.query_one("#what", PlainText).show(Content.assemble(name, (f"  in {where}" if where else "", "dim")))
        self.query_one("#why", PlainText).show(f"asked because {inert_line(request.reason, 300)}")
        await self._show_call()
        self._show_choices()

    async def _show_call(self) -> None:
        place, diff = self.query_one("#call", VerticalScroll), self._facts[self._at].diff
        await place.remove_children()
        if diff is None:
            await place.mount(PlainText(call_content(self._request.call)))
        else:
            signs = f"new, {diff.added} lines" if diff.created else f"+{diff.added} −{diff.removed}"
            head = Content.assemble((inert_line(diff.path, 200), "bold"), (f"  {signs}", "dim"))
            await place.mount(PlainText(head), DiffView(inert(diff.unified), diff.path))
        place.scroll_home(animate=False)

    def _pending(self) -> Content:
        parts = []
        for at, request in enumerate(self._requests):
            answer = self._answers.get(at)
            sign, colour = _sign(answer)
            name = f" {sign} {request.call.name[:12]} {subject_of(request.call)}"
            style = f"bold reverse {colour}" if at == self._at else colour
            parts.append(Content.styled(f"{inert_line(name, 26)} ", style))
        return Content(" ").join(parts)

    def _show_choices(self) -> None:
        self._open(_CHOICES)
        choices = self.query_one(f"#{_CHOICES}", OptionList)
        choices.clear_options()
        choices.add_options(list(self._options()))
        choices.highlighted = 0
        choices.focus()

    def _options(self) -> list[Option]:
        rules = " | ".join(map(str, self._rules))
        options = [_option("y", "Allow once", "", "once")]
        if rules:
            options.append(_option("a", "Always allow", inert_line(rules, 60), "always"))
        options += [
            _option("e", "Edit it first", "", "edit"),
            _option("n", "Refuse", "and say why", "refuse"),
        ]
        return options if self._request.call.arguments else [one for one in options if one.id != "edit"]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What has no meaning now is not offered."""
        del parameters
        several = len(self._requests) > 1
        choosing = self.query_one("#answer", ContentSwitcher).current == _CHOICES if self.is_mounted else True
        if action in ("all_once", "none", "go"):
            return choosing and several
        if action == "always":
            return choosing and bool(self._rules)
        if action == "edit":
            return choosing and bool(self._request.call.arguments)
        if action == "back":
            return not choosing
        return choosing if action in ("once", "refuse", "leave") else True

    # What the person does

    @on(OptionList.OptionSelected)
    async def _choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        await self.run_action(str(event.option.id))

    async def action_once(self) -> None:
        """This call, this time."""
        await self._answer(Approval(call_id=self._request.call.id, allowed=True))

    def action_always(self) -> None:
        """Show the rules first."""
        self._open(_RULE)
        self.query_one(RuleForm).ask(self._request.call, self._rules, self._judge)

    async def action_edit(self) -> None:
        """Change what is called."""
        self._open(_ARGUMENTS)
        await self.query_one(ArgumentsForm).ask(self._request.call, self._judge)

    def action_refuse(self) -> None:
        """Ask for the reason."""
        self._open(_REFUSAL)
        self.query_one(RefusalForm).ask()

    async def action_all_once(self) -> None:
        """Every call that is still open."""
        await self._answer_rest(allowed=True)

    async def action_none(self) -> None:
        """Refuse every call that is still open."""
        await self._answer_rest(allowed=False)

    def action_back(self) -> None:
        """Out of a form."""
        self._show_choices()

    def action_leave(self) -> None:
        """Stop the run."""
        self.dismiss(None)

    async def action_go(self, by: int) -> None:
        """Another of the calls that wait."""
        self._at = (self._at + by) % len(self._requests)
        await self._show()

    def action_scroll(self, by: int) -> None:
        """The call, when it is long."""
        call = self.query_one("#call", VerticalScroll)
        call.scroll_page_down(animate=False) if by > 0 else call.scroll_page_up(animate=False)

    @on(RuleForm.Agreed)
    async def _always(self, event: RuleForm.Agreed) -> None:
        if event.for_good and self._save_rules is not None:
            self._save_rules(event.rules)
        self._answers[self._at] = Approval(call_id=self._request.call.id, allowed=True, always=event.rules)
        for at, request in enumerate(self._requests):
            # What the new rules allow need not be asked again.
            if at not in self._answers and self._is_allowed(request, event.rules):
                self._answers[at] = Approval(call_id=request.call.id, allowed=True)
        await self._go_on()

    def _is_allowed(self, request: ApprovalRequest, rules: tuple[Rule, ...]) -> bool:
        return self._judge is not None and self._judge(request.call, rules).verdict is Verdict.ALLOW

    @on(RefusalForm.Refused)
    async def _refused(self, event: RefusalForm.Refused) -> None:
        await self._answer(Approval(call_id=self._request.call.id, allowed=False, message=event.reason))

    @on(ArgumentsForm.Changed)
    async def _changed(self, event: ArgumentsForm.Changed) -> None:
        await self._answer(Approval(call_id=self._request.call.id, allowed=True, arguments=event.arguments))

    def _open(self, part: str) -> None:
        self.query_one("#answer", ContentSwitcher).current = part
        self.set_class(part != _CHOICES, "-form")
        self.refresh_bindings()

    async def _answer(self, approval: Approval) -> None:
        self._answers[self._at] = approval
        await self._go_on()

    async def _answer_rest(self, *, allowed: bool) -> None:
        for at, request in enumerate(self._requests):
            self._answers.setdefault(at, Approval(call_id=request.call.id, allowed=allowed))
        await self._go_on()

    async def _go_on(self) -> None:
        """The next open call, or the end."""
        still_open = [at for at in range(len(self._requests)) if at not in self._answers]
        if not still_open:
            self.dismiss(tuple(self._answers[at] for at in range(len(self._requests))))
            return
        self._at = next((at for at in still_open if at > self._at), still_open[0])
        await self._show()


def _sign(answer: Approval | None) -> tuple[str, str]:
    if answer is None:
        return "?", "$text-warning"
    return ("✓", "$text-success") if answer.allowed else ("✗", "$text-error")


def _option(key: str, label: str, hint: str, action: str) -> Option:
    prompt = Content.assemble((f" {key} ", "bold"), f" {label}  ", (hint, "dim"))
    return Option(prompt, id=action)
