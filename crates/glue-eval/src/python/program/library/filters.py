# The classes that filters of tasks descend from.
import re


class Filter:
    def __init__(self, **kwargs):
        pass

    def apply(self, resps, docs):
        return resps


class RegexFilter(Filter):
    def __init__(self, regex_pattern=r"#### (\-?[0-9\.\,]+)", group_select=0, fallback="[invalid]"):
        self.regex_pattern = regex_pattern
        self.regex = re.compile(regex_pattern)
        self.group_select = group_select
        self.fallback = fallback

    def apply(self, resps, docs):
        return [[self._pick(answer) for answer in answers] for answers in resps]

    def _pick(self, answer):
        found = self.regex.findall(answer if isinstance(answer, str) else "")
        if not found:
            return self.fallback
        chosen = found[self.group_select]
        if isinstance(chosen, tuple):
            groups = [group for group in chosen if group]
            chosen = groups[0] if groups else self.fallback
        return chosen.strip()
