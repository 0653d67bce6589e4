"""Items and answers as Label Studio's JSON of tasks (https://labelstud.io/guide/task_format), and back.

Its labelling config: <View><Text name="text" value="$text"/><Choices name="label" toName="text">...</Choices>
(with choice="multiple" and a choice `none` where a text has any number of labels)
<TextArea name="note" toName="text"/></View>.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import UserError
from pipeline.reviewing import IMPORTED, UNCLEAR, Answer, Item, takes
from serving.corpus import text_hash
from serving.shapes import NONE, Shape

_FACTS = ("reason", "confidence", "suggested", "reference")
Json = dict[str, Any]


def tasks(
    items: Mapping[str, Item], answers: Iterable[Answer], seconds: Mapping[tuple[str, str], float], shape: Shape
) -> list[Json]:
    """One task an item: what people said as annotations, what the model said as a prediction.

    Args:
        items: by key.
        answers: everybody's.
        seconds: that (item, reviewer) took.
        shape: of the task; a set of labels is as many choices, the empty one the choice `none`.
    """
    by_item: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_item[answer.item].append(answer)
    return [_task(i, item, by_item[key], seconds, shape) for i, (key, item) in enumerate(items.items(), start=1)]


def _task(
    number: int, item: Item, answers: Sequence[Answer], seconds: Mapping[tuple[str, str], float], shape: Shape
) -> Json:
    facts = {name: value for name in _FACTS if (value := getattr(item, name)) is not None}
    predictions = []
    if item.label is not None:
        predictions = [{"model_version": "llambert", "score": item.confidence, "result": [_choices(item.label, shape)]}]
    return {
        "id": number,
        "data": {"id": item.id, "text": item.text, **facts},
        "predictions": predictions,
        "annotations": [
            {
                "id": f"{number}-{i}",
                "completed_by": {"email": answer.reviewer},
                "created_at": answer.time,
                "was_cancelled": False,
                "lead_time": seconds.get((answer.item, answer.reviewer)),
                "result": [_choices(answer.label, shape), *([_note(answer.note)] if answer.note else [])],
            }
            for i, answer in enumerate(answers, start=1)
        ],
    }


def _choices(label: str, shape: Shape) -> Json:
    names = shape.names(label) or [NONE]
    return {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": names}}


def _note(note: str) -> Json:
    return {"from_name": "note", "to_name": "text", "type": "textarea", "value": {"text": [note]}}


def read(text: str, name: str, shape: Shape, now: str) -> tuple[list[Item], list[Answer]]:
    """Items and answers of a full JSON export; tasks without an id take the hash of their text for one.

    Args:
        text: of the file.
        name: of the file, for messages.
        shape: of the task; UNCLEAR is taken too.
        now: time of annotations that have none.

    Raises:
        UserError: it is no such export, or has labels that the task doesn't have; nothing of it is taken then.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{name} is not JSON ({error}): in Label Studio choose Export, JSON") from error
    if not isinstance(found, list) or not all(isinstance(task, dict) for task in found):
        raise UserError(f"{name} is no list of tasks: in Label Studio choose Export, JSON (not JSON-MIN or CSV)")
    items, answers = [], []
    for number, task in enumerate(found, start=1):
        try:
            item = _item(task)
            items.append(item)
            answers += list(_answers(task, item, shape, now))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            kind = type(error).__name__
            raise UserError(f"{name}, task {number}, is not as Label Studio writes tasks ({kind}: {error})") from error
    if unknown := {answer.label for answer in answers if not takes(shape, answer.label)}:
        raise UserError(
            f"{name} has labels that the task doesn't have: {', '.join(map(repr, sorted(unknown)))}; there are "
            f"{', '.join(map(repr, [*shape.labels, UNCLEAR]))}: rename them in the file, or add them to task.labels"
        )
    return items, answers


def _item(task: Json) -> Item:
    data, text = task["data"], task["data"]["text"]
    if not isinstance(text, str):
        raise TypeError("data.text is no text")
    digest = text_hash(text)
    return Item(str(data.get("id", digest)), text, digest, IMPORTED)


def _answers(task: Json, item: Item, shape: Shape, now: str) -> Iterator[Answer]:
    for annotation in task.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        parts = {part["type"]: part["value"] for part in annotation["result"]}
        if "choices" not in parts or not parts["choices"]["choices"]:
            continue
        label = _label(parts["choices"]["choices"], shape)
        note = "\n".join(parts.get("textarea", {}).get("text", []))
        time = annotation.get("created_at") or now
        yield Answer(item.key, _person(annotation.get("completed_by")), label, note, time)


def _label(choices: list[str], shape: Shape) -> str:
    if len(choices) == 1:
        return choices[0]
    if shape.kind != "multi" or not set(choices).issubset(shape.labels):
        raise TypeError(f"{' and '.join(choices)} are chosen together")
    return shape.written(choices)


def _person(completed_by: Any) -> str:  # noqa: ANN401 - a number, or an object with an address
    if isinstance(completed_by, dict):
        return str(completed_by.get("email") or completed_by.get("id"))
    return f"annotator {completed_by}" if completed_by is not None else "label studio"
