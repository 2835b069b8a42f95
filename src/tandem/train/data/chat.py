"""Chat templates: messages rendered in a sandbox, cut into what the template and what the assistant says."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tandem.kit.errors import UnsupportedFeature

_STAND_INS = 0xF0000  # first of a plane of characters that nobody has given a meaning
_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")  # a tag of transformers alone
_SENTINEL = chr(0x10FFFD)


class Span(NamedTuple):
    """A run of a rendered chat: one control token, or text; `counts` if the assistant says it."""

    text: str
    control: bool
    counts: bool


class ChatTemplate:
    """A chat template as transformers renders it, but for the time: what is learnt must not depend on the day.

    `specials` are the control tokens, `tokens` what the template calls bos_token, eos_token and pad_token.

    Raises:
        UnsupportedFeature: it is no template.
    """

    def __init__(self, source: str, *, specials: Sequence[str] | Mapping[str, int], tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(_GENERATION.sub(_framed, source))
        except jinja2.TemplateError as error:
            raise UnsupportedFeature(
                f"The chat template is none: {error}.", remedy="Mend chat_template in tokenizer_config.json."
            ) from error
        self._tokens = dict(tokens)
        names = sorted((name for name in specials if name), key=len, reverse=True)
        self._specials = re.compile("|".join(re.escape(name) for name in names) or r"(?!)")

    def render(self, messages: Sequence[Mapping[str, Any]], *, generation: bool) -> str:
        """The chat as text.

        Raises:
            ValueError: the template refuses these messages.
        """
        try:
            return self._template.render(
                messages=list(messages), tools=None, documents=None, add_generation_prompt=generation, **self._tokens
            )
        except (jinja2.TemplateError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"the chat template refuses it: {error}") from error

    def spans(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[Span]:
        """The chat in spans; their texts, joined, are what `render` gives.

        Control tokens that the messages spell are replaced by characters that stand for them while the template
        is at work, so that only its own are found.

        Raises:
            UnsupportedFeature: the template does not show where an assistant's turn is.
            ValueError: the template refuses these messages.
        """
        safe, back = self._safe(messages)
        whole = self.render(safe, generation=False)
        place = 0
        for begin, end in self._turns(safe, whole):
            yield from self._pieces(whole[place:begin], back, counts=False)
            yield from self._pieces(whole[begin:end], back, counts=True)
            place = end
        yield from self._pieces(whole[place:], back, counts=False)

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[Span]:
        """The chat in spans up to where the assistant is to speak.

        Raises:
            ValueError: the template refuses these messages.
        """
        safe, back = self._safe(messages)
        yield from self._pieces(self.render(safe, generation=True), back, counts=False)

    def _safe(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The messages without control tokens, and what each character that stands for one means."""
        contents = [message["content"] for message in messages]
        spelt = sorted({name for content in contents for name in self._specials.findall(content)})
        if not spelt:
            return [dict(message) for message in messages], {}
        used = {character for content in contents for character in content}
        free = (chr(number) for number in range(_STAND_INS, 0x10FFFD) if chr(number) not in used)
        stand_ins = dict(zip(spelt, free, strict=False))
        safe = [
            {**message, "content": self._specials.sub(lambda match: stand_ins[match.group()], message["content"])}
            for message in messages
        ]
        return safe, {character: name for name, character in stand_ins.items()}

    def _turns(self, messages: Sequence[Mapping[str, Any]], whole: str) -> Iterator[tuple[int, int]]:
        """Where what each assistant says begins and ends in the rendered chat."""
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            until = self.render(messages[: place + 1], generation=False)
            begin = self._opening(messages, place, until)
            if not whole.startswith(until) or begin is None:
                raise UnsupportedFeature(
                    "The chat template writes a turn of the assistant in another way once the chat goes on.",
                    remedy="Train on chats with one answer each, or use a parent with a simpler chat template.",
                )
            yield begin, begin + self._length(until[begin:])

    def _opening(self, messages: Sequence[Mapping[str, Any]], place: int, until: str) -> int | None:
        """Where the content of an assistant's message begins: behind what asks the model to speak."""
        if place:
            asked = self.render(messages[:place], generation=True)
            if until.startswith(asked):
                return len(asked)
        # The template opens a chat, or a turn, in another way: see where it puts the content.
        marked = self.render([*messages[:place], {**messages[place], "content": _SENTINEL}], generation=False)
        begin = marked.find(_SENTINEL)
        return begin if begin >= 0 and until[:begin] == marked[:begin] else None

    def _length(self, said: str) -> int:
        """How much of a turn the assistant says: up to the token that ends it, without what only separates turns."""
        bare = said.rstrip()
        found = list(self._specials.finditer(bare))
        return len(bare) if found and found[-1].end() == len(bare) else len(said)

    def _pieces(self, text: str, back: Mapping[str, str], *, counts: bool) -> Iterator[Span]:
        place = 0
        for match in self._specials.finditer(text):
            if match.start() > place:
                yield Span(_replaced(text[place : match.start()], back), control=False, counts=counts)
            yield Span(match.group(), control=True, counts=counts)
            place = match.end()
        if place < len(text):
            yield Span(_replaced(text[place:], back), control=False, counts=counts)


def _framed(tag: re.Match[str]) -> str:
    """A tag by which some templates mark what the assistant says, as one that changes nothing."""
    return f"{tag.group(1)}{'endif' if tag.group(2) else 'if true'}{tag.group(3)}"


def _replaced(text: str, others: Mapping[str, str]) -> str:
    for old, new in others.items():
        text = text.replace(old, new)
    return text


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """As transformers does: jinja's own filter would escape what HTML minds."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
