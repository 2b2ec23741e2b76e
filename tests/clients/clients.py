"""The official clients of OpenAI, Anthropic and Ollama, and LangChain, against `sterna serve`.

Usage: clients.py TEXT_URL EMBEDDING_MODEL KEY

The server at TEXT_URL serves `demo` and an embedding model, and wants KEY.
"""

import sys

import anthropic
import ollama
import openai
from langchain_openai import ChatOpenAI

URL, EMBEDDING_MODEL, KEY = sys.argv[1:]
QUESTION = [{"role": "user", "content": "Once upon a time"}]


def chat(client):
    whole = client.chat.completions.create(model="demo", messages=QUESTION, max_tokens=24, seed=3)
    text = whole.choices[0].message.content
    assert text and whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 24
    stream = client.chat.completions.create(
        model="demo", messages=QUESTION, max_tokens=24, seed=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage.completion_tokens == 24
    many = client.chat.completions.create(
        model="demo", messages=QUESTION, max_completion_tokens=5, n=3, logprobs=True, top_logprobs=4, temperature=0.7
    )
    assert [c.index for c in many.choices] == [0, 1, 2]
    for choice in many.choices:
        assert len(choice.logprobs.content) == 5
        for token in choice.logprobs.content:
            assert len(token.top_logprobs) == 4 and token.logprob <= 0
    parsed = client.chat.completions.with_raw_response.create(model="demo", messages=QUESTION, max_tokens=1)
    assert parsed.headers["x-request-id"]


def completions(client):
    whole = client.completions.create(model="demo", prompt="Once upon a time", max_tokens=40, temperature=0)
    word = whole.choices[0].text.split()[6]
    stopped = client.completions.create(
        model="demo", prompt="Once upon a time", max_tokens=40, temperature=0, stop=[" " + word]
    )
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == whole.choices[0].text.split(" " + word)[0]
    biased = client.completions.create(
        model="demo", prompt="Once", max_tokens=4, temperature=0, logit_bias={"300": 100}, logprobs=2
    )
    assert len(set(biased.choices[0].logprobs.tokens)) == 1, biased
    pieces = client.completions.create(
        model="demo", prompt="Once upon a time", max_tokens=40, temperature=0, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


def responses(client):
    whole = client.responses.create(model="demo", input="Once upon a time", max_output_tokens=16, extra_body={"seed": 3})
    assert whole.output_text and whole.status == "incomplete" and whole.usage.output_tokens == 16
    with client.responses.stream(
        model="demo", input="Once upon a time", max_output_tokens=16, extra_body={"seed": 3}
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == whole.output_text


def embeddings(client):
    # The package asks for base64 unless it is told otherwise.
    inputs = [[5, 9, 30, 12], [7, 2]]
    packed = client.embeddings.create(model=EMBEDDING_MODEL, input=inputs)
    plain = client.embeddings.create(model=EMBEDDING_MODEL, input=inputs, encoding_format="float")
    assert len(packed.data) == 2
    for a, b in zip(packed.data, plain.data):
        assert max(abs(x - y) for x, y in zip(a.embedding, b.embedding)) < 1e-6
        assert abs(sum(x * x for x in b.embedding) - 1) < 1e-4


def models(client):
    names = [model.id for model in client.models.list()]
    assert names == ["demo", EMBEDDING_MODEL], names
    assert client.models.retrieve("demo").owned_by == "sterna"


def errors(client):
    def fails(error, param, **changes):
        try:
            client.chat.completions.create(**{"model": "demo", "messages": QUESTION, "max_tokens": 1, **changes})
        except error as raised:
            assert param in (raised.param or str(raised)), raised
        else:
            raise AssertionError(f"{changes} was accepted")

    fails(openai.BadRequestError, "temperature", temperature=5)
    fails(openai.BadRequestError, "messages", messages=[])
    fails(openai.NotFoundError, "model", model="gpt-4")
    fails(openai.BadRequestError, "context", messages=[{"role": "user", "content": "word " * 5000}])
    stranger = openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0)
    try:
        stranger.models.list()
    except openai.AuthenticationError:
        pass
    else:
        raise AssertionError("a wrong key was accepted")


def others():
    reply = ChatOpenAI(model="demo", base_url=f"{URL}/v1", api_key=KEY, max_tokens=8).invoke("Once upon a time")
    assert reply.content
    claude = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
    message = claude.messages.create(model="demo", max_tokens=8, messages=QUESTION)
    assert message.content[0].text and message.stop_reason == "max_tokens"
    with claude.messages.stream(model="demo", max_tokens=8, messages=QUESTION) as stream:
        assert "".join(stream.text_stream) and stream.get_final_message().usage.output_tokens == 8
    local = ollama.Client(host=URL, headers={"Authorization": f"Bearer {KEY}"})
    assert local.chat(model="demo", messages=QUESTION, options={"num_predict": 8}).message.content
    assert "".join(part.response for part in local.generate("demo", "Once", stream=True, options={"num_predict": 8}))
    assert local.list().models[0].model == "demo"


if __name__ == "__main__":
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
    for test in (chat, completions, responses, embeddings, models, errors):
        test(client)
        print(f"{test.__name__}: ok")
    others()
    print("anthropic, ollama, langchain: ok")
