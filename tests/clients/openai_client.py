"""The official Python client of OpenAI's protocol against a running answerd: python openai_client.py ADDRESS.

The chat model is a scripted one (tests/common/upstream.rs) that says "w0 w1 … w19 "; the documents hold one page about
annual leave.
"""

import asyncio
import math
import sys

import openai

ADDRESS = sys.argv[1]
WORDS = "".join(f"w{n} " for n in range(20))
ASK = [{"role": "user", "content": "How many days of annual leave are there?"}]

client = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key="test", max_retries=0)

# Models.
names = [model.id for model in client.models.list()]
assert names == ["answerd", "far", "all-MiniLM-L6-v2"], names
assert client.models.retrieve("far").id == "far"

# A completion, whole.
whole = client.chat.completions.create(model="far", messages=ASK)
assert whole.choices[0].message.content == WORDS, whole
assert whole.choices[0].finish_reason == "stop"
assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (11, 20, 31)
assert whole.usage.prompt_tokens_details.cached_tokens == 3

# The same in chunks, with its usage.
stream = client.chat.completions.create(model="far", messages=ASK, stream=True, stream_options={"include_usage": True})
text, usage, reasons = "", None, []
for chunk in stream:
    assert chunk.object == "chat.completion.chunk"
    if chunk.usage is not None:
        assert chunk.choices == []
        usage = chunk.usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        reasons.append(choice.finish_reason)
assert text == WORDS, text
assert usage.total_tokens == 31 and reasons[-1] == "stop" and set(reasons[:-1]) == {None}

# The client's own assembly of a stream.
with client.chat.completions.stream(model="far", messages=ASK) as events:
    for _ in events:
        pass
    assert events.get_final_completion().choices[0].message.content == WORDS

# From the documents: sources beside the text.
answer = client.chat.completions.create(model="answerd", messages=ASK)
assert answer.model_extra["sources"][0]["document_id"] == "people/leave.md", answer
filtered = client.chat.completions.create(model="answerd", messages=ASK, extra_body={"filter": {"id": "none"}})
assert filtered.model_extra["sources"] == [], filtered

# A reader that leaves early.
stream = client.chat.completions.create(model="far", messages=ASK, stream=True)
next(iter(stream))
stream.close()

# Vectors: the client asks for base64 and gives numbers.
vectors = client.embeddings.create(model="all-MiniLM-L6-v2", input=["annual leave", "a hotel"])
assert [item.index for item in vectors.data] == [0, 1]
assert len(vectors.data[0].embedding) == 384
assert abs(math.sqrt(sum(x * x for x in vectors.data[0].embedding)) - 1) < 1e-4

# Errors come as the client's own classes.
try:
    client.chat.completions.create(model="near", messages=ASK)
    raise AssertionError("an unknown model was served")
except openai.NotFoundError as error:
    assert error.code == "model_not_found" and error.param == "model", error
try:
    client.chat.completions.create(model="far", messages=ASK, temperature=9)
    raise AssertionError("an absurd temperature was served")
except openai.BadRequestError as error:
    assert "temperature" in str(error), error
try:
    client.chat.completions.create(model="far", messages=[{"role": "user", "content": "word " * 100_000}])
    raise AssertionError("a prompt that is too long was served")
except openai.BadRequestError as error:
    assert error.code == "context_length_exceeded", error


async def many():
    """Several at once, by the asynchronous client."""
    async with openai.AsyncOpenAI(base_url=f"{ADDRESS}/v1", api_key="test", max_retries=0) as own:
        asked = [own.chat.completions.create(model="far", messages=ASK, max_tokens=n) for n in range(1, 11)]
        answers = await asyncio.gather(*asked)
    assert [answer.usage.completion_tokens for answer in answers] == list(range(1, 11))
    assert answers[0].choices[0].finish_reason == "length"


asyncio.run(many())
print(f"openai {openai.__version__} for Python: all as it should be")
