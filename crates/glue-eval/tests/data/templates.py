"""Writes templates.json: what lm_eval 0.4.13 (its `apply_template`, Jinja2) renders. usage: python templates.py"""
import json
from pathlib import Path

from lm_eval.utils import apply_template

fields = {"q": "Why? ", "choices": ["a", "it's"], "flag": True, "none": None, "n": 3, "x": 1.0,
          "deep": {"text": ["one", "two"]}, "answer": "B"}
templates = [
    "{{q}}", "{{ q.strip() }}\nAnswer:\n", "{{choices}}", "{{flag}} {{none}} {{n}} {{x}}", "{{deep}}", "{{deep.text[0]}}",
    "{{ deep['text'][-1] }}", "{{ ['A', 'B', 'C'].index(answer) }}", "{{ choices|length }}", "{{ choices|join(', ') }}",
    "{% for c in choices %}({{ 'AB'[loop.index0] }}) {{ c }}\n{% endfor %}", "{{ 'yes' if flag else 'no' }}",
    "{{ q|trim|lower }}", "{{ q.replace('?', '!') }}", "{% set a = n + 1 %}{{ a * 2 }}", "{{ n / 2 }} {{ n // 2 }} {{ n % 2 }}",
    "{{ q ~ flag }}", "{{ choices[1:] }}", "{{ choices + ['c'] }}", "{{ [choices[0], q] }}", "{{ n|string + 'x' }}",
    "{{ q|regex_replace('[A-Z]', '_') }}", "{{ q.split(' ')[0] }}", "{{ deep.text|first }}", "{{ deep.text[::-1] }}",
    "{{ q.split() }}", "{{ {'a': 1}[ 'a' ] }}", "{{ q.upper().startswith('WHY') }}", "{{ n == 3 and not none }}",
    "a\n{%- if flag %} b {% endif -%}\n c\n", "{{ '{}:{}'.format(n, answer) }}",
    "{{ choices|map('upper')|list }}", "{{ q[:3] }}", "{{ answer in choices }}", "{{ q.find('?') }}",
    "{{ 'a b c'.rsplit(' ', 1) }} {{ 'a-b'.rsplit('-') }}", "{{ q.removeprefix('Why').removesuffix(' ') }}",
    "{{ 'x'.join(choices) }}", "{{ q|replace(' ', '') }}", "{{ q.rstrip() + ' ' + choices[n - 2] }}",
]
out = Path(__file__).with_suffix(".json")
cases = [{"template": t, "rendered": apply_template(t, fields)} for t in templates]
out.write_text(json.dumps({"made by": "templates.py, lm_eval 0.4.13", "fields": fields, "cases": cases}, indent=1) + "\n")
