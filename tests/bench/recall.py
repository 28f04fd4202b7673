"""How often the right memory is found by a question that paraphrases it.

    python -m tests.bench.recall

Each of two users has two hundred memories and asks for fifty of them; the other user has facts on the same subjects.
Prints how often the right one is among the first five, and the time of a recall. Vectors come from the embedded model,
so nothing leaves the machine.
"""

import asyncio
import random
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from adapters.memory_mem0 import MemoryMem0
from domain.conversation import UserId

LIMIT = 5
"""Memories per recall."""
FILLERS = 150
"""Memories per user that no question asks for."""

PLANTED = (
    # a fact of Ada, a fact of Bob on the same subject, and a question that asks for either
    ("My dog is called Bello", "My cat is called Minka", "What is the name of my pet?"),
    ("I am allergic to peanuts", "I cannot digest lactose", "Which foods must I avoid?"),
    ("I work as a nurse in a children's hospital", "I teach physics at a grammar school", "What do I do for a living?"),
    ("I moved to Vienna last spring", "I have lived in Lyon since 2010", "In which city do I live?"),
    ("My birthday is on the third of May", "I was born on Christmas Eve", "On what day was I born?"),
    ("I drive an old red Volvo", "I go everywhere by bicycle", "Which vehicle do I use?"),
    ("I play the cello in an amateur orchestra", "I sing bass in a choir", "What music do I make?"),
    ("My daughter Mia is seven", "My twin sons are in kindergarten", "Do I have any children?"),
    ("I prefer tea to coffee in the morning", "I need two espressos to wake up", "What should I drink at breakfast?"),
    ("I am training for the Berlin marathon", "I swim a mile every Tuesday", "Which sport am I doing?"),
    ("I cannot stand coriander", "I hate olives", "What taste do I dislike?"),
    ("I am learning Japanese with an app", "I take Portuguese lessons", "What language am I studying?"),
    ("I am afraid of flying", "Spiders make me panic", "What frightens me?"),
    ("My favourite colour is dark green", "I like orange most of all", "Which colour do I like best?"),
    ("I finished my degree in chemistry in Graz", "I studied law in Bologna", "Where did I go to university?"),
    ("I broke my left wrist while skiing", "I had my appendix taken out", "What medical trouble did I have?"),
    ("My wife is called Clara", "My husband is called Jonas", "Who am I married to?"),
    ("I am saving up for a sailing boat", "I put money aside for a new kitchen", "What am I saving money for?"),
    ("I write code mostly in Rust", "I program in Python", "Which programming language should the example be in?"),
    ("I am a vegetarian", "I eat fish but no meat", "What kind of diet do I follow?"),
    ("I read detective novels before I sleep", "I listen to podcasts in bed", "How do I spend my evenings in bed?"),
    ("My flat is on the fifth floor without a lift", "I rent a house with a garden", "What kind of home do I have?"),
    ("I am leaving for Iceland in July", "We spend August in Sardinia", "Where am I going on vacation?"),
    ("I wear size 39 shoes", "My feet are a size 46", "Which sneakers would fit me?"),
    ("My mother grew up in Poland", "My grandparents came from Turkey", "Where does my family have its roots?"),
    ("I get up at five to bake bread", "I never rise before ten", "What time do I get out of bed?"),
    ("I use a fountain pen with violet ink", "I take notes on a tablet", "What do I write with?"),
    ("I lost my job in March", "I was promoted to head of sales", "What has changed in my job?"),
    ("I go to church on Sundays", "I meditate at a Buddhist centre", "What do I believe in?"),
    ("My computer runs Debian", "I own a MacBook", "Which operating system do I have?"),
    ("I grow tomatoes on the balcony", "I keep bees behind the shed", "What do I do in the garden or on the balcony?"),
    ("My boss is called Mrs Huber", "Mr Tanaka is my supervisor", "Who is my manager?"),
    ("I am short-sighted and wear contact lenses", "I am deaf in one ear", "Which of my senses is weak?"),
    ("I collect stamps from the colonial era", "I restore old radios", "What is my hobby at home?"),
    ("My sister studies medicine in Padua", "My brother is a fireman", "What do my siblings do?"),
    ("I take blood pressure pills every day", "I inject insulin", "Which medicine am I on?"),
    ("I gave up smoking two years ago", "I have not drunk alcohol since May", "Which bad habit did I quit?"),
    (
        "I want short answers without small talk",
        "Explain things to me at length",
        "How detailed should your replies be?",
    ),
    ("I support Rapid Vienna", "I am a fan of Lyon's football club", "Which team do I cheer for?"),
    ("I am one metre sixty tall", "I measure two metres", "How tall am I?"),
    ("I want to become a midwife", "I dream of opening a bakery", "Which profession do I dream of?"),
    ("I do the accounts of a charity for refugees", "I train a youth football team", "How do I volunteer?"),
    ("My best friend Eva lives in Oslo", "My closest friend Ali moved to Cairo", "Who is my best mate?"),
    ("I love films by Kurosawa", "I only watch romantic comedies", "Which movie would I enjoy tonight?"),
    ("I pay 900 euros rent", "My mortgage is 1,200 a month", "What does housing cost me?"),
    ("I cannot drive at night", "I have no driving licence", "Am I able to drive a car in the dark?"),
    ("I am expecting a baby in October", "We are adopting a girl", "Am I going to have a child?"),
    ("I have an appointment with the dentist on Friday", "My knee operation is on Monday", "Any doctors I see soon?"),
    ("I own two guinea pigs called Max and Moritz", "A parrot named Koko lives with me", "Which animals do I keep?"),
    ("I would rather be called Addy", "Call me Robert, not Bob", "What name should you use for me?"),
)

SUBJECTS = ("printer", "garden fence", "train ticket", "invoice", "bookshelf", "radiator", "password manager", "sofa")
DEEDS = ("asked how to repair the", "compared prices for a", "wrote an e-mail about the", "was annoyed by the")
TIMES = ("on Monday", "in the holidays", "after lunch", "before the meeting", "at the weekend", "last year")


def fillers(seed: int) -> list[str]:
    """Trivial facts of the kind that accumulate if every message is remembered."""
    every = [f"I {deed} {subject} {time}" for deed in DEEDS for subject in SUBJECTS for time in TIMES]
    return random.Random(seed).sample(every, FILLERS)  # the same in each run


def questions() -> Iterator[tuple[UserId, str, str]]:
    for adas, bobs, question in PLANTED:
        yield UserId("ada"), adas, question
        yield UserId("bob"), bobs, question


async def measure() -> None:
    with TemporaryDirectory() as directory:
        memory = MemoryMem0(
            data_dir=Path(directory),
            api_key="none",
            base_url="http://127.0.0.1:9/v1",
            model="none",
            embedder="local",
            now=lambda: datetime.now(UTC),
        )
        before = perf_counter()
        async with memory:
            print(f"opened in {perf_counter() - before:.2f} s")
            await fill(memory)
            await recall(memory)


async def fill(memory: MemoryMem0) -> None:
    before, count = perf_counter(), 0
    for column, user in enumerate(("ada", "bob")):
        facts = [*(planted[column] for planted in PLANTED), *fillers(column)]
        random.Random(column).shuffle(facts)  # the same order in each run
        for fact in facts:
            await memory.store(UserId(user), fact, 0.5)
        count += len(facts)
    print(f"{count} memories stored, {(perf_counter() - before) / count * 1000:.1f} ms each")


async def recall(memory: MemoryMem0) -> None:
    hits, first_hits, foreign, times, counts = 0, 0, 0, [], []
    missed = []
    for user, fact, question in questions():
        before = perf_counter()
        found = await memory.recall(user, question, LIMIT)
        times.append(perf_counter() - before)
        facts = [recalled.memory.fact for recalled in found]
        foreign += sum(recalled.memory.owner != user for recalled in found)
        counts.append(len(found))
        hits += fact in facts
        first_hits += facts[:1] == [fact]
        if fact not in facts:
            missed.append((question, fact))
    print(
        f"right memory among the first {LIMIT}: {hits} of {len(times)}; first: {first_hits}; of another user: {foreign}"
    )
    print(f"recall took {statistics.median(times) * 1000:.1f} ms (median), {max(times) * 1000:.1f} ms (maximum)")
    print(f"{statistics.mean(counts):.1f} memories per recall (mean)")
    for question, fact in missed:
        print(f"  missed: {question} ({fact})")


if __name__ == "__main__":
    asyncio.run(measure())
