"""Ten questions to evaluate the word counter with, and two scorers that need no model."""

from typing import Any

from mlflow.genai.scorers import scorer

# A person's count. The last one is a matter of opinion.
_WORDS = {
    "What is MLflow?": 3,
    "What does Databricks do?": 4,
    "Hello": 1,
    "How many words are in this sentence?": 7,
    "Tell me about agents on Model Serving": 7,
    "one two three four five six seven eight nine ten": 10,
    "Do you count a number, like 42, as a word?": 10,
    "Is    extra    space    counted?": 4,
    "Was ist ein Agent?": 4,
    "Is open-source software free?": 5,
}
data = [{"inputs": {"question": question}, "expectations": {"words": words}} for question, words in _WORDS.items()]


@scorer
def counts_right(outputs: dict[str, Any], expectations: dict[str, Any]) -> bool:
    """Whether the tool's result is the expected number, exactly."""
    results = [item["output"] for item in outputs["output"] if item["type"] == "function_call_output"]
    return results == [str(expectations["words"])]


@scorer
def quotes_the_question(inputs: dict[str, Any], outputs: dict[str, Any]) -> bool:
    """Whether the answer says the question again."""
    said = [part["text"] for item in outputs["output"] if item["type"] == "message" for part in item["content"]]
    return inputs["question"] in "".join(said)


scorers = [counts_right, quotes_the_question]
