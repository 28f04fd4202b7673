"""The accuracy of the token estimate, compared with real tokenizers, before and after learning from a few counts.

The vocabulary of the embedded model is small and mostly English. It needs up to five times as many tokens for a text as
those of OpenAI's models. `pytest -rP` prints the table.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pytest
import requests

from domain.context import assemble
from domain.conversation import Exchange
from domain.tokens import TokenEstimator, estimate_tokens
from entrypoints.local_model import SLOT_TOKENS, LocalModel, local_model
from tests.harness.tokenizer import cl100k, o200k

pytestmark = pytest.mark.server

PROSE: Final[Mapping[str, str]] = {
    "English": (
        "The harbour was quiet that morning. A few gulls walked along the wall, and an old man in a blue coat mended "
        "his nets as if nothing had happened. When I asked him about the storm, he shrugged: boats come back or they "
        "do not. Later I understood that he had been waiting for his brother since Tuesday."
    ),
    "German": (
        "Am nächsten Morgen war der Hafen still. Ein paar Möwen liefen über die Mauer, und ein alter Mann flickte "
        "seine Netze, als wäre nichts gewesen. Auf meine Frage nach der Sturmflutwarnung zuckte er nur mit den "
        "Schultern: Entweder kehren die Boote zurück oder eben nicht."
    ),
    "French": (
        "Ce matin-là, le port était calme. Quelques mouettes se promenaient sur le mur, et un vieil homme réparait "
        "ses filets comme si de rien n'était. Quand je l'ai interrogé sur la tempête, il a haussé les épaules."
    ),
    "Polish": (
        "Tego ranka w porcie panowała cisza. Kilka mew spacerowało po murze, a stary człowiek w niebieskim płaszczu "
        "naprawiał sieci, jakby nic się nie stało. Kiedy zapytałem go o sztorm, tylko wzruszył ramionami."
    ),
    "Finnish": (
        "Sinä aamuna satama oli hiljainen. Muutama lokki käveli muurilla, ja vanha mies siniseen takkiin "
        "pukeutuneena korjasi verkkojaan aivan kuin mitään ei olisi tapahtunut."
    ),
    "Turkish": (
        "O sabah liman sessizdi. Birkaç martı duvarın üzerinde yürüyor, mavi paltolu yaşlı bir adam hiçbir şey "
        "olmamış gibi ağlarını onarıyordu. Fırtınayı sorduğumda yalnızca omuz silkti."
    ),
    "Vietnamese": (
        "Sáng hôm đó bến cảng yên tĩnh. Vài con mòng biển đi dọc bức tường, và một ông già mặc áo khoác xanh ngồi vá "
        "lưới như thể không có chuyện gì xảy ra."
    ),
    "Russian": (
        "В то утро в гавани было тихо. Несколько чаек ходили по стене, а старик в синем пальто чинил сети, как будто "
        "ничего не случилось. Когда я спросил его о буре, он только пожал плечами."
    ),
    "Greek": (
        "Εκείνο το πρωί το λιμάνι ήταν ήσυχο. Μερικοί γλάροι περπατούσαν πάνω στον τοίχο, και ένας γέρος με μπλε "
        "παλτό επισκεύαζε τα δίχτυα του σαν να μην είχε συμβεί τίποτα."
    ),
    "Japanese": (
        "その朝、港は静かだった。何羽かのカモメが壁の上を歩き、青いコートを着た老人が何事もなかったかのように網を繕って"
        "いた。嵐のことを尋ねると、彼はただ肩をすくめた。"
    ),
    "Chinese": (
        "那天早上，港口很安静。几只海鸥在墙上走来走去，一位穿蓝色外套的老人在补渔网，"
        "好像什么事也没有发生过。我问起暴风雨，他只是耸了耸肩。"
    ),
    "Korean": (
        "그날 아침 항구는 조용했다. 갈매기 몇 마리가 담장 위를 걸어 다녔고, 파란 외투를 입은 노인은 아무 일도 없었던 "
        "것처럼 그물을 고치고 있었다."
    ),
    "Arabic": (
        "كان الميناء هادئا في ذلك الصباح. مشت بعض النوارس على الجدار، وجلس رجل عجوز يرتدي معطفا أزرق يصلح شباكه كأن "
        "شيئا لم يحدث. وعندما سألته عن العاصفة هز كتفيه."
    ),
    "Hebrew": (
        "באותו בוקר היה הנמל שקט. כמה שחפים הלכו על החומה, ואיש זקן במעיל כחול תיקן את רשתותיו כאילו לא קרה דבר."
    ),
    "Hindi": (
        "उस सुबह बंदरगाह शांत था। कुछ पक्षी दीवार पर टहल रहे थे, और नीला कोट पहने एक बूढ़ा आदमी अपने जाल ठीक कर रहा था, "
        "मानो कुछ हुआ ही न हो।"
    ),
    "Thai": "เช้าวันนั้นท่าเรือเงียบสงบ นกนางนวลสองสามตัวเดินอยู่บนกำแพง ชายชราสวมเสื้อสีน้ำเงินนั่งซ่อมแหราวกับไม่มีอะไรเกิดขึ้น",
}

DATA: Final[Mapping[str, str]] = {
    "Python": (
        "def parse(lines: Iterable[str]) -> dict[str, int]:\n"
        '    """Count the words of each line."""\n'
        "    counts: dict[str, int] = {}\n"
        "    for line in lines:\n"
        "        for word in line.split():\n"
        "            counts[word] = counts.get(word, 0) + 1\n"
        "    return counts\n"
    ),
    "JavaScript": (
        "export async function load(url, { signal } = {}) {\n  const answer = await fetch(url, { signal });\n"
        "  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);\n  return answer.json();\n}\n"
    ),
    "JSON": json.dumps([{"id": n, "name": f"user{n}", "active": n % 2 == 0, "score": n * 1.37} for n in range(20)]),
    "JSON, indented": json.dumps([{"id": n, "tags": ["red", "blue"], "size": [n, n + 1]} for n in range(20)], indent=2),
    "Markdown": (
        "## Steps\n\n1. **Install** it: `pip install example`\n2. Run `example --help`\n\n"
        "| option | meaning |\n|---|---|\n| `-v` | says more |\n| `-q` | says less |\n\n> Nothing is stored.\n"
    ),
    "URLs": "\n".join(
        f"https://www.example.org/shop/item-{n * 37}?utm_source=news&session=9f8e{n}c&q=a%20b#reviews"
        for n in range(20)
    ),
    "digits": "31415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170",
    "numbers": " ".join(f"{n * 7.31:.3f}" for n in range(1, 60)),
    "signs": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" * 4,
    "CAPITALS": "PLEASE DO NOT LEAVE YOUR LUGGAGE UNATTENDED. THE NEXT TRAIN TO DEPART FROM PLATFORM SEVEN IS DELAYED.",
    "emoji": "😀🎉👍🔥🚀🙏💡🤖🥳😭🍕🏆🐍🧪🪄👩‍👩‍👧‍👦👨🏽‍💻🇩🇪🇯🇵❤️",
    "rare ideographs": "龘靐齉爩麤鱻灪籱龗驫犇猋骉羴厵飍",
    "mixed white space": " \n\t \n" * 50,
}

RANDOM: Final[Mapping[str, str]] = {
    "base64": "q83vEjRWeJq83vESNFZ4mrze8RI0VniavN7xN2YxZTc5YjQtOGQwYy00YTFmLWJlM2QtN2M5ZjFhMmI0ZDZlVGhpc0lzUmFuZG9t",
    "UUIDs": "7d9f1c3e-52ab-4e07-9c18-f3b6a0d4e281 c04be9a7-16d3-4f58-8a92-0e7d5b3c6f14",
    "hexadecimal": "9b74c9897bac770ffc029102a200c5de4f3ae6b7d1820c95e8b4a7f6d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b1a0",
}

SPACE: Final[Mapping[str, str]] = {
    "spaces": " " * 500,
    "new lines": "\n" * 500,
    "indentation": "\n        " * 60,
    "a rule": "-" * 300,
}


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    with local_model() as running:
        yield running


Post = Callable[[str, Mapping[str, Any]], Any]


@pytest.fixture(scope="module")
def post(model: LocalModel) -> Iterator[Post]:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {model.api_key}"

        def post(path: str, body: Mapping[str, Any]) -> Any:
            response = session.post(model.base_url.removesuffix("/v1") + path, json=body, timeout=30)
            assert response.status_code == 200, response.text
            return response.json()

        yield post


Count = Callable[[str], int]


@pytest.fixture(scope="module", params=["smollm2", "cl100k", "o200k"])
def count(request: pytest.FixtureRequest) -> Count:
    """Return a function that counts the tokens of a text with one of three vocabularies, from small to large."""
    match request.param:
        case "cl100k":
            return cl100k
        case "o200k":
            return o200k
        case _:
            post: Post = request.getfixturevalue("post")
            return lambda text: len(post("/tokenize", {"content": text})["tokens"])


INSTRUCTIONS: Final = "You are a helpful assistant."


def learned(text: str, count: Count, turns: int = 4) -> TokenEstimator:
    """Return an estimator that has learned from the first turns of a conversation that consists of `text`."""
    estimator = TokenEstimator()
    for turn in range(turns):
        texts = [INSTRUCTIONS, *[text] * (2 * turn + 1)]
        estimator.learn(texts, sum(count(each) + 4 for each in texts) + 3)
    return estimator


def ratio(name: str, text: str, count: Count, estimate: Callable[[str], int]) -> float:
    """Compute estimated per counted tokens, and print one line of the table."""
    counted, estimated = count(text), estimate(text)
    print(f"{name:18} {len(text):5} characters {counted:5} tokens {estimated:5} estimated {estimated / counted:6.2f}")
    return estimated / counted


@pytest.mark.parametrize("language", PROSE)
def test_prose_is_estimated_within_1_3_times_the_count_after_a_few_turns(language: str, count: Count) -> None:
    text = PROSE[language]

    assert 1 / 1.3 <= ratio(language, text, count, learned(text, count)) <= 1.3


@pytest.mark.parametrize("language", ["English", "German", "Russian", "Hindi", "Chinese", "Japanese"])
def test_prose_is_estimated_within_1_3_times_the_count_of_a_large_vocabulary_from_the_start(language: str) -> None:
    assert 1 / 1.3 <= ratio(language, PROSE[language], o200k, estimate_tokens) <= 1.3


def test_all_languages_are_estimated_within_1_3_times_the_count_if_their_users_take_turns(count: Count) -> None:
    languages = ["English", "Russian", "Hindi", "Chinese", "Japanese"]
    estimator = TokenEstimator()
    for _ in range(4):
        for language in languages:
            texts = [INSTRUCTIONS, *[PROSE[language]] * 3]
            estimator.learn(texts, sum(count(text) + 4 for text in texts) + 3)

    for language in languages:
        assert 1 / 1.3 <= ratio(language, PROSE[language], count, estimator) <= 1.3


@pytest.mark.parametrize("kind", DATA)
def test_code_and_data_are_estimated_between_0_7_and_1_4_times_the_count_after_a_few_turns(
    kind: str, count: Count
) -> None:
    assert 0.7 <= ratio(kind, DATA[kind], count, learned(DATA[kind], count)) <= 1.4


@pytest.mark.parametrize("kind", RANDOM)
def test_random_characters_are_underestimated_by_half_at_first_and_by_a_third_at_most_after_a_few_turns(
    kind: str, count: Count
) -> None:
    assert 0.5 <= ratio(kind, RANDOM[kind], count, estimate_tokens) <= 1.5
    assert 0.67 <= ratio(kind, RANDOM[kind], count, learned(RANDOM[kind], count)) <= 1.5


@pytest.mark.parametrize("kind", SPACE)
def test_repetition_is_never_underestimated(kind: str, count: Count) -> None:
    assert ratio(kind, SPACE[kind], count, estimate_tokens) >= 1
    assert ratio(kind, SPACE[kind], count, learned(SPACE[kind], count)) >= 1


@pytest.mark.parametrize("text", [*PROSE.values(), *DATA.values()], ids=[*PROSE, *DATA])
def test_a_full_context_leaves_room_for_the_longest_reply_of_the_embedded_model_after_a_few_turns(
    text: str, model: LocalModel, post: Post
) -> None:
    estimate = learned(text, lambda text: len(post("/tokenize", {"content": text})["tokens"]))
    context = assemble(
        INSTRUCTIONS, [Exchange("And then?", text)] * 50, "Go on.", model.context_tokens, estimate=estimate
    )
    messages = [{"role": message.role, "content": message.text} for message in context]

    counted = post("/v1/chat/completions/input_tokens", {"messages": messages})["input_tokens"]

    assert counted + model.max_tokens <= SLOT_TOKENS
