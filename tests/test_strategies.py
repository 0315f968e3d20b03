"""Perturbed prompts: nonsense before the question, and nothing else."""

from typing import Any

from suffice.adapters.strategies import FEWEST, MOST, nonsense, perturbed


def test_nonsense_differs_by_number_and_only_by_it():
    assert nonsense(1) == nonsense(1) != nonsense(2)
    assert all(FEWEST <= len(nonsense(number).split()) <= MOST for number in range(50))


def test_only_the_last_question_is_perturbed():
    system = {"role": "system", "content": "add"}
    body: dict[str, Any] = {
        "messages": [system, {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}],
        "temperature": 0.5,
    }
    again = {"role": "user", "content": "2+2", "name": "me"}
    found = perturbed({**body, "messages": [*body["messages"], again]}, 3)
    assert found["messages"][:-1] == body["messages"]
    assert found["messages"][-1] == {"role": "user", "content": f"{nonsense(3)} 2+2", "name": "me"}
    assert found["temperature"] == 0.5
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    shown = perturbed({"messages": [{"role": "user", "content": [image]}]}, 3)
    assert shown["messages"][0]["content"] == [{"type": "text", "text": nonsense(3)}, image]
    assert perturbed({"prompt": "2+2"}, 3) == {"prompt": f"{nonsense(3)} 2+2"}
    assert perturbed({"prompt": [1, 2]}, 3) == {"prompt": [1, 2]}
