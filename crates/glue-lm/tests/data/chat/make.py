"""Writes cases.json: what transformers makes of the templates beside this file.

    python3 make.py        (with transformers and jinja2 installed; made with 5.23.0 and 3.1.6)
"""

import json
from datetime import datetime
from pathlib import Path

from transformers.utils import chat_template_utils as utils

HERE = Path(__file__).parent
NOW = datetime(2025, 3, 9, 14, 5, 6)


class Clock:
    @staticmethod
    def now():
        return NOW


utils.datetime = Clock


def message(role, content, **fields):
    return {"role": role, "content": content, **fields}


PLAIN = [message("user", "Hi there"), message("assistant", " Hello! "), message("user", "What is 2 + 2?\n")]
SYSTEM = [message("system", " Be brief. "), *PLAIN]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city, in °C <now>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2, "exact": True, "x": 1.5}}}
CALLED = [
    message("user", "Weather?"),
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    message("tool", {"degrees": 12.0, "sky": "grey & 'wet'"}),
]
THOUGHT = [
    message("user", "One?"),
    message("assistant", "<think>\nhm\n</think>\n\nTwo."),
    message("user", "Three?"),
    message("assistant", "<think>\nmaybe\n</think>\n\nFour."),
    message("user", "<tool_response>5</tool_response>"),
    message("assistant", "Six.", reasoning_content="\nwell\n"),
]
VALUES = {
    "yes": True,
    "no": False,
    "nothing": None,
    "number": 3,
    "half": 0.5,
    "tiny": 1e-07,
    "huge": 1e22,
    "list": [1, 2, 3],
    "object": {"b": {"d": None, "c": [True, 1.0, "é\n"]}, "a": "x"},
    "text": "é <b> & 'q' \"r\" \u2028 \U0001f600\t\\",
}

CASES = [
    ("chatml", dict(messages=PLAIN)),
    ("chatml", dict(messages=SYSTEM, add_generation_prompt=True)),
    ("llama3", dict(messages=PLAIN, add_generation_prompt=True)),
    ("llama3", dict(messages=SYSTEM, variables={"date_string": "1 Jan 2020"})),
    ("llama3", dict(messages=CALLED, tools=[WEATHER], add_generation_prompt=True)),
    ("llama3", dict(messages=[message("user", "x"), {"role": "assistant", "tool_calls": [CALL, CALL]}])),
    ("mistral", dict(messages=PLAIN)),
    ("mistral", dict(messages=SYSTEM, add_generation_prompt=True)),
    ("mistral", dict(messages=PLAIN[:1] * 2)),
    ("mistral", dict(messages=[message("user", "x"), message("critic", "y")])),
    ("gemma", dict(messages=PLAIN, add_generation_prompt=True)),
    ("gemma", dict(messages=SYSTEM)),
    ("gemma", dict(messages=PLAIN[1:])),
    ("thinking", dict(messages=THOUGHT, add_generation_prompt=True)),
    ("thinking", dict(messages=THOUGHT[:4])),
    ("thinking", dict(messages=PLAIN, add_generation_prompt=True, variables={"enable_thinking": False})),
    ("blocks", dict(messages=[*PLAIN, message("skip", "no"), *PLAIN[1:], message("end", "no"), *PLAIN])),
    ("values", dict(messages=PLAIN, variables=VALUES)),
]


def main():
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    cases = []
    for template, case in CASES:
        text = (HERE / f"{template}.jinja").read_text()
        messages = [{k: v for k, v in m.items() if v is not None} for m in case["messages"]]
        try:
            [rendered], _ = utils.render_jinja_template(
                conversations=[messages],
                tools=case.get("tools"),
                chat_template=text,
                add_generation_prompt=case.get("add_generation_prompt", False),
                **special,
                **case.get("variables", {}),
            )
            result = {"expected": rendered}
        except Exception as error:
            result = {"refused": str(error)}
        cases.append({"template": template, **case, **result})
    content = {"special_tokens": special, "now": [NOW.year, NOW.month, NOW.day, NOW.hour, NOW.minute, NOW.second], "cases": cases}
    (HERE / "cases.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


main()
