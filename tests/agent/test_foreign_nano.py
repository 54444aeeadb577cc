"""The small model that comes along, decoding calls of a real server's tool.

It was trained on five tools and would not choose another by itself: that a call is written, and of which tool, is the
constraint's doing here. Its arguments are the model's own words, held to the server's schema.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from kodkod_agent.call_grammar import CallGrammar
from kodkod_agent.config import AgentConfig
from kodkod_agent.policy import PermissionMode
from kodkod_agent.profile import Profile
from kodkod_agent.session import Session, SessionSetup
from kodkod_engine import load_engine
from kodkod_engine.chat.ledger_state import Origin
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.constraints.turn_constraint import TurnConstraint
from kodkod_engine.messages import AssistantMessage, ToolMessage
from kodkod_engine.nano import folder
from kodkod_tools.mcp.config import McpServer
from kodkod_tools.mcp.servers import McpServers

from .conftest import all_events

SERVER = Path(__file__).parents[1] / "tools" / "mcp" / "programs" / "paint_server.py"


@dataclass
class OneCall:
    """Begins with a call and ends behind it; between them as the turn's own constraint says."""

    turn: TurnConstraint
    tokenizer: object

    def allowed_ids(self, generated_ids):
        special = self.tokenizer.special
        if not generated_ids:
            return (special.ids[Tag.TOOL_CALL],)
        if generated_ids[-1] == special.ids[Tag.TOOL_CALL_END]:
            return (self.tokenizer.eos_id,)
        return self.turn.allowed_ids(generated_ids)


class CallsAlone(CallGrammar):
    """A grammar of which every turn is one call, of another program's tools alone."""

    def __init__(self, tokenizer, tools):
        super().__init__(tokenizer, (), tools)
        self.tokenizer = tokenizer
        self.offered = []

    def constraint(self, more=()):
        self.offered.append([spec.name for spec in more])
        return OneCall(super().constraint(more), self.tokenizer)


async def test_nano_calls_the_tool_of_a_real_server(sandbox, project, root, tmp_path):
    server = McpServer(command=sys.executable, args=(str(SERVER),))
    engine = load_engine(str(folder()))
    try:
        async with McpServers({"paint": server}, tmp_path, tmp_path / "logs", {}) as servers:
            await servers.settled()
            setup = SessionSetup(
                engine=engine,
                tokenizer=engine.tokenizer,
                sandbox=sandbox,
                work_tree=project,
                config=AgentConfig(max_turns=1, baseline_tests=False, tell_facts=False),
                mode=PermissionMode.BYPASS_PERMISSIONS,
                profile=Profile(tools=("finish",), declare_tools=False, system=False),
                more=servers,
                news=servers.notes,
            )
            async with await Session.create(root, setup) as session:
                session._res.grammar.close()
                grammar = session._res.grammar = CallsAlone(engine.tokenizer, session.tools)
                await all_events(session, "Mix strong red.")
                ledger = session.ledger
    finally:
        engine.close()
    assert sum(span.origin is Origin.LATE_TOOLS for span in ledger.spans) == 1
    assert grammar.offered == [["mcp__paint__mix"]]
    calls = [call for message in ledger.view() if isinstance(message, AssistantMessage) for call in message.calls]
    answers = [message.text for message in ledger.view() if isinstance(message, ToolMessage)]
    [call], [answer] = calls, answers
    assert call.name == "mcp__paint__mix"
    assert set(call.arguments) == {"colour", "strong"}
    strength = "strong" if call.arguments["strong"] else "pale"
    assert answer == f"{strength} {call.arguments['colour']}"
