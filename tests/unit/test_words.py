"""Words in the form in which they are searched for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.stems import MAX_STEMMED_CHARS, stem_arabic, stem_korean, stem_russian
from domain.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is my DOG called?", "dog called"),
        ("tax_return-2024", "tax return 2024"),
        ("Zürich, Straße, ÅNGSTRÖM", "zurich strasse angstrom"),
        ("我的狗叫贝罗。", "狗 叫 贝 罗 狗叫 叫贝 贝罗"),
        ("私の犬の名前はベロです", "私 犬 名 前 名前 ベロ"),
        ("제 개의 이름은 벨로입니다", "개의 개 이름 벨로 벨"),
        ("หมา", "หม มา"),
        ("ที่", "ที่"),
        ("Моя собака любит чай", "собак люб ча"),
        ("ما اسم الكلب؟", "اسم كلب"),
        ("मेरा कुत्ता", "मेरा कुत्ता"),
        ("🐕 👍🏽 🧑‍🚀 🇦🇹 ❤️", "🐕 👍 🧑 🚀 🇦🇹 ❤"),
        ("tea茶Tee", "tea 茶 tee"),
        ("half \ud83d a character", "half character"),
        ("", ""),
    ],
)
def test_a_text_is_split_into_words(text: str, expected: str) -> None:
    assert expected.split() == list(words(text))


@given(st.text())
def test_words_contain_no_space_and_no_punctuation(text: str) -> None:
    for word in words(text):
        assert word
        assert not set(word) & set(" \t\n\0\"'*()^-+:{}.,!?_")


@given(st.text())
def test_words_do_not_depend_on_case_or_on_the_composition_of_characters(text: str) -> None:
    folded = list(words(text))

    assert folded == list(words(text.casefold()))


@pytest.mark.parametrize(
    "forms",
    [
        "собака собаку собаки собаке собакой собак собакам собаками собаках",
        "кот кота коту котом коте коты котов котам котами котах",
        "чай чая чаю чаем",
        "дом дома дому домом доме домов домам домами",
        "красный красная красное красные красного красной красным красными",
        "любить люблю любишь любит любим любите любят любил любила",
        "работать работаю работает работают работал работала работали",
        "книга книги книгу книгой книг книгам",
        "Вена Вены Вене Вену Веной",
    ],
)
def test_common_forms_of_a_russian_word_have_one_stem(forms: str) -> None:
    assert 1 == len({stem_russian(form.lower()) for form in forms.split()})


@pytest.mark.parametrize(
    "forms", ["كلب الكلب كلبي كلبها والكلب بالكلب كلبهم", "قهوه القهوه والقهوه", "اسم الاسم اسمي اسمه اسمها"]
)
def test_common_forms_of_an_arabic_word_have_one_stem(forms: str) -> None:
    assert 1 == len({stem_arabic(form) for form in forms.split()})


def test_korean_words_lose_their_particles() -> None:
    assert {"강아지"} == {stem_korean(form) for form in ["강아지", "강아지가", "강아지는", "강아지를", "강아지에게"]}


@given(st.text("аеилмносты", min_size=1, max_size=100))
def test_a_stem_begins_the_word_and_is_never_empty(word: str) -> None:
    stem = stem_russian(word)

    assert stem
    assert word.startswith(stem)
    assert stem == word or len(word) <= MAX_STEMMED_CHARS


@given(st.text("والكبفهيتنام", min_size=1, max_size=100))
def test_an_arabic_stem_is_part_of_the_word_and_never_empty(word: str) -> None:
    assert stem_arabic(word)
    assert stem_arabic(word) in word
