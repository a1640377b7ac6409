#!/usr/bin/env python3
"""Writes small data sets in the schema of well-known benchmarks, as repositories of the hub.

    python3 tests/interop/made_benchmarks.py DATA [--mmlu 50]

Each has a README.md with its configurations and a JSON Lines file for each split. The items were made for this purpose and say nothing about
a model; they let lm_eval and glue run the same tasks by name where the real data cannot be had.
"""

import argparse
import json
import pathlib
import random

PLACES = ["the harbour", "a small station", "the old mill", "the library", "a mountain hut", "the market hall", "an island", "the museum"]
PEOPLE = ["Ada", "Boris", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hiro"]
THINGS = ["lantern", "violin", "map", "kettle", "telescope", "ladder", "compass", "basket"]
COLOURS = ["red", "green", "blue", "yellow"]
SUBJECTS = """abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics econometrics
electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography high_school_government_and_politics
high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics high_school_psychology
high_school_statistics high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy
prehistory professional_accounting professional_law professional_medicine professional_psychology public_relations security_studies
sociology us_foreign_policy virology world_religions""".split()


def write(root, name, configs):
    """`configs`: for each configuration its splits, and for each split its rows."""
    directory = root / name
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = pathlib.Path(config) / f"{split}.jsonl"
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (directory / path).write_text(text, encoding="utf-8")
            lines += [f"  - split: {split}", f"    path: {path}"]
    (directory / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


def story(i):
    person, place, thing, colour = PEOPLE[i % 8], PLACES[(3 * i + 1) % 8], THINGS[(5 * i + 2) % 8], COLOURS[i % 4]
    text = f"{person} walked to {place} with a {colour} {thing}. It took {10 + i} minutes, and {person} paid {3 + i} coins at the gate."
    return person, place, thing, colour, text


def choices(numbers, right, wrong):
    """The choices in some order, and where the right one is."""
    several = [right, *wrong]
    numbers.shuffle(several)
    return several, several.index(right)


def multiple_choice(root, numbers, n):
    arc, wino, boolq, piqa, openbook, sciq, swag, mc, gen = ([] for _ in range(9))
    for i in range(n):
        person, place, thing, colour, text = story(i)
        other = THINGS[(5 * i + 3) % 8]
        question = f"What did {person} carry to {place}?"
        several, at = choices(numbers, f"a {colour} {thing}", [f"a {other}", "a live fish", "nothing at all"])
        arc.append({"id": f"q{i}", "question": question, "choices": {"text": several, "label": list("ABCD")}, "answerKey": "ABCD"[at]})
        openbook.append({"id": f"q{i}", "question_stem": f"To see {place} at night one needs", "choices": {"text": several, "label": list("ABCD")}, "answerKey": "ABCD"[at]})
        wino.append({"sentence": f"The {thing} did not fit into the {other} because the _ was too {'large' if i % 2 else 'small'}.", "option1": thing, "option2": other, "answer": str(1 + (i + 1) % 2)})
        boolq.append({"passage": text, "question": f"did {person} pay {3 + i + i % 2} coins", "idx": i, "label": 1 - i % 2})
        piqa.append({"goal": f"How do you carry a {thing} up a hill?", "sol1": "Hold it with both hands and walk slowly.", "sol2": f"Throw the {thing} as far as you can, {i} times.", "label": 0})
        sciq.append({"support": text, "question": f"Who walked to {place}?", "distractor1": PEOPLE[(i + 1) % 8], "distractor2": PEOPLE[(i + 2) % 8], "distractor3": PEOPLE[(i + 3) % 8], "correct_answer": person})
        swag.append({"ind": i, "activity_label": "Walking [with] things", "ctx_a": f"{person} walks to {place}.", "ctx_b": "the person", "ctx": f"{person} walks to {place}. the person", "endings": [f"puts down the {thing} [step] and rests.", "turns into a cloud.", f"eats {i + 2} doors.", "sings  to the gate ."], "source_id": "x", "split": "val", "split_type": "indomain", "label": str(0)})
        right, wrong = [f"It was {person}", f"{person}, who came from {place}."], ["It was the king.", f"A {other} did it"]
        mc.append({"question": f"Who lost the {thing} in {place}?", "mc1_targets": {"choices": [right[0], *wrong], "labels": [1, 0, 0]}, "mc2_targets": {"choices": [*right, *wrong], "labels": [1, 1, 0, 0]}})
        gen.append({"type": "Made", "category": "Things", "question": f"Who lost the {thing} in {place}?", "best_answer": right[0], "correct_answers": right, "incorrect_answers": wrong, "source": ""})
    halves = lambda rows, names: {name: rows if name == names[-1] else rows[::-1] for name in names}
    three = ["train", "validation", "test"]
    write(root, "allenai/ai2_arc", {"ARC-Easy": halves(arc, three), "ARC-Challenge": halves(arc, three)})
    write(root, "allenai/winogrande", {"winogrande_xl": halves(wino, three[:2])})
    write(root, "aps/super_glue", {"boolq": halves(boolq, three[:2])})
    write(root, "baber/piqa", {"default": halves(piqa, three[:2])})
    write(root, "allenai/openbookqa", {"main": halves(openbook, three)})
    write(root, "allenai/sciq", {"default": halves(sciq, three)})
    write(root, "Rowan/hellaswag", {"default": halves(swag, three[:2])})
    write(root, "truthfulqa/truthful_qa", {"multiple_choice": {"validation": mc}, "generation": {"validation": gen}})


def texts(root, n):
    words = [f"{story(i)[4]} Nobody knew who owned the {story(i)[2]}" for i in range(n)]
    write(root, "EleutherAI/lambada_openai", {"default": {"test": [{"text": text} for text in words]}})
    page = lambda i: f" \n = {story(i)[2].title()} = \n \n " + " ".join(story(j)[4].replace(".", " .").replace(",", " ,") for j in range(i, i + 4)) + " \n \n = = Use = = \n \n It cost 1 @,@ 200 @.@ 5 coins ; \" no more \" , people said . \n "
    pages = [{"page": page(i)} for i in range(n)]
    write(root, "EleutherAI/wikitext_document_level", {"wikitext-2-raw-v1": {"train": pages, "validation": pages, "test": pages}})


def questions(root, n):
    drop, trivia, coqa = [], [], []
    for i in range(n):
        person, place, thing, colour, text = story(i)
        date = {"day": "", "month": "", "year": ""}
        nothing = {"number": "", "date": date, "spans": []}
        answer = [{**nothing, "number": str(10 + i)}, {**nothing, "spans": [place, thing]}, {**nothing, "date": {"day": "3", "month": "May", "year": "1901"}}][i % 3]
        other = {**nothing, "spans": [f"the {10 + i} minutes"]}
        validated = {key: [answer[key], other[key]] for key in ("number", "date", "spans")}
        validated |= {"worker_id": ["a", "b"], "hit_id": ["a", "b"]}
        drop.append({"section_id": "s", "query_id": f"q{i}", "passage": text, "question": f"How many minutes did {person} walk?", "answer": {**answer, "worker_id": "", "hit_id": ""}, "validated_answers": validated})
        trivia.append({"question": f"Which colour is the {thing} of {person}", "question_id": f"q{i}", "answer": {"aliases": [colour, colour.upper(), f"It is {colour}!"], "normalized_aliases": [colour], "value": colour}})
        asked = [f"Who walked to {place}?", "What was carried?", "How long did it take?"][: 1 + i % 3]
        said = [person, f"a {colour} {thing}", f"{10 + i} minutes"][: 1 + i % 3]
        more = {str(k): {"input_text": [f"{one} indeed" if k else one.upper() for one in said]} for k in range(2)}
        coqa.append({"id": f"q{i}", "source": "made", "story": text, "questions": {"input_text": asked, "turn_id": list(range(1, 1 + len(asked)))}, "answers": {"input_text": said, "turn_id": list(range(1, 1 + len(asked)))}, "additional_answers": more})
    for name, config, rows in [("EleutherAI/drop", "default", drop), ("mandarjoshi/trivia_qa", "rc.nocontext", trivia), ("EleutherAI/coqa", "default", coqa)]:
        write(root, name, {config: {"train": rows[::-1], "validation": rows}})


def instructions(root):
    cases = [
        ("Write about a lantern in lower case, at most 30 words.", ["change_case:english_lowercase", "length_constraints:number_words"], [{}, {"relation": "less than", "num_words": 30}]),
        ("Describe a harbour without commas. Use the word boat twice.", ["punctuation:no_comma", "keywords:frequency"], [{}, {"keyword": "boat", "frequency": 2, "relation": "at least"}]),
        ("List three things in bullet points.", ["detectable_format:number_bullet_lists"], [{"num_bullets": 3}]),
        ("Tell me a title wrapped in double angular brackets.", ["detectable_format:title"], [{}]),
        ("Answer in JSON.", ["detectable_format:json_format"], [{}]),
        ("End with the words: that is all.", ["startend:end_checker"], [{"end_phrase": "that is all."}]),
        ("Write two paragraphs, separated by ***.", ["length_constraints:number_paragraphs"], [{"num_paragraphs": 2}]),
        ("Say nothing about kettles, and wrap it all in quotation marks.", ["keywords:forbidden_words", "startend:quotation"], [{"forbidden_words": ["kettle", "kettles"]}, {}]),
        # Counting sentences takes data of nltk that is downloaded.
        ("Use the letter e 5 times.", ["keywords:letter_frequency"], [{"letter": "e", "let_frequency": 5, "let_relation": "at least"}]),
        ("Repeat this request first, then answer.", ["combination:repeat_prompt"], [{"prompt_to_repeat": "Repeat this request first, then answer."}]),
    ]
    keys = sorted({key for _, _, kwargs in cases for one in kwargs for key in one})
    full = lambda one: {key: one.get(key) for key in keys}
    rows = [{"key": i, "prompt": prompt, "instruction_id_list": ids, "kwargs": [full(one) for one in kwargs]} for i, (prompt, ids, kwargs) in enumerate(cases)]
    write(root, "google/IFEval", {"default": {"train": rows}})


def reasoning(root, numbers, n):
    boolean = [{"input": f"not ( {bool(i % 2)} and {bool(i % 3)} ) is", "target": str(not (bool(i % 2) and bool(i % 3)))} for i in range(n)]
    dates = [{"input": f"Today is {i + 1} May 1990. What is the date tomorrow in MM/DD/YYYY?\nOptions:\n(A) 05/{i + 2:02}/1990\n(B) 06/{i + 2:02}/1990", "target": "(A)"} for i in range(n)]
    write(root, "SaylorTwift/bbh", {"boolean_expressions": {"test": boolean}, "date_understanding": {"test": dates}})
    solved = lambda i: {"problem": f"If $x+{i}={2 * i + 3}$, find $x$.", "level": "Level 1", "type": "Algebra", "solution": f"Subtracting, $x=\\boxed{{{i + 3}}}$."}
    write(root, "EleutherAI/hendrycks_math", {"algebra": {"train": [solved(i) for i in range(n)], "test": [solved(i + 1) for i in range(n)]}})
    pro = []
    for i in range(n):
        person, place, thing, colour, text = story(i)
        several, at = choices(numbers, colour, [other for other in COLOURS if other != colour] + THINGS[:6])
        pro.append({"question_id": i, "question": f"{text} Which colour was it?", "options": several, "answer": "ABCDEFGHIJ"[at], "answer_index": at, "cot_content": f"A: Let's think step by step. It was {colour}. The answer is ({'ABCDEFGHIJ'[at]}).", "category": ["law", "math"][i % 2], "src": "made"})
    write(root, "TIGER-Lab/MMLU-Pro", {"default": {"validation": pro, "test": pro[::-1]}})


def mmlu(root, numbers, n):
    def row(subject, i):
        person, place, thing, colour, text = story(i)
        several, at = choices(numbers, f"The {colour} one", [f"The {other} one" for other in COLOURS if other != colour])
        filler = " ".join(story(i + k)[4] for k in range(1 + i % 3))
        return {"question": f"In {subject.replace('_', ' ')}, a case says: {filler} Which {thing} was it, number {i}?", "subject": subject, "choices": several, "answer": at}

    write(root, "cais/mmlu", {subject: {"dev": [row(subject, 1000 + i) for i in range(5)], "test": [row(subject, i) for i in range(n)]} for subject in SUBJECTS})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=pathlib.Path)
    parser.add_argument("--items", type=int, default=12, help="of each benchmark but mmlu (default 12)")
    parser.add_argument("--mmlu", type=int, default=50, help="items of each subject of mmlu (default 50)")
    arguments = parser.parse_args()
    numbers = random.Random(5)
    multiple_choice(arguments.data, numbers, arguments.items)
    texts(arguments.data, arguments.items)
    questions(arguments.data, arguments.items)
    instructions(arguments.data)
    reasoning(arguments.data, numbers, arguments.items)
    mmlu(arguments.data, numbers, arguments.mmlu)


if __name__ == "__main__":
    main()
