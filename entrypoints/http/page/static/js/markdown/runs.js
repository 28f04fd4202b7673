/** Text that takes browsers seconds or minutes to lay out: tens of thousands of characters that are drawn together. */

/** Marks and skin tones on one character, and halves of flags. Unicode's Stream-Safe Text Format allows as many marks. */
const MAX_CLUSTER = 30;

/** Letters without a space or punctuation, unless they are all of ASCII. Words of no language are as long. */
const MAX_WORD = 500;

/** Changes of direction in a paragraph, of which each is laid out on its own. */
const MAX_DIRECTIONS = 1_000;

/** A no-break space carries the marks after it; a zero-width space does not show. */
const CARRIER = "\u00a0";
const DIVIDER = "\u200b";

const MARKS = longRun(String.raw`[\p{M}\p{Emoji_Modifier}]`, MAX_CLUSTER);
const FLAGS = longRun(String.raw`\p{Regional_Indicator}`, MAX_CLUSTER);
const DIVIDED_MARKS = division(String.raw`[\p{M}\p{Emoji_Modifier}]`, MAX_CLUSTER, CARRIER);
const DIVIDED_FLAGS = division(String.raw`\p{Regional_Indicator}`, MAX_CLUSTER, DIVIDER);
const DIVIDED_WORD = division(String.raw`[^\s\p{P}\p{S}\u200b]`, MAX_WORD, DIVIDER);
const WORD = /[^\s\p{P}\p{S}\u200b]+/gu;
const PART_OF_WORD = new RegExp(`.{${MAX_WORD}}(?=.)`, "gu");
const ASCII = /^[\x00-\x7f]*$/;

/** From a character that is written from right to left, or one that sets the direction, to another letter or digit. */
const RIGHT_TO_LEFT = String.raw`\u0590-\u08ff\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefc`;
const CHANGE = new RegExp(`[${RIGHT_TO_LEFT}][^\\p{L}\\p{N}${RIGHT_TO_LEFT}]*(?![${RIGHT_TO_LEFT}])[\\p{L}\\p{N}]`, "gu");

/** Long enough for a run in text that has been divided, each of whose characters may be two of JavaScript's. */
const TAIL = 2 * MAX_WORD + 2;

/** Divide runs that are too long. */
export function divideRuns(text) {
  return text
    .replace(MARKS, `$&${CARRIER}`)
    .replace(FLAGS, `$&${DIVIDER}`)
    .replace(WORD, (word) => (word.length <= MAX_WORD || ASCII.test(word) ? word : divided(word)));
}

/** Return `addition` as it is in `divideRuns(text + addition)`. The runs of `text` have been divided. */
export function divideAddedRuns(text, addition) {
  const tail = text.slice(-TAIL);
  return divideRuns(tail + addition).slice(tail.length);
}

/** Return a text whose runs may have been divided as it was before. */
export function joinRuns(text) {
  const joined = text.replace(DIVIDED_MARKS, "").replace(DIVIDED_FLAGS, "").replace(DIVIDED_WORD, "");
  return divideRuns(joined) === text ? joined : text; // otherwise, some of it was written like that
}

/** Return whether the text changes its direction so often that it has to be shown in one. */
export function hasManyDirections(text) {
  return (text.match(CHANGE)?.length ?? 0) > MAX_DIRECTIONS;
}

function divided(word) {
  return word.replace(PART_OF_WORD, `$&${DIVIDER}`);
}

function longRun(character, length) {
  return new RegExp(`${character}{${length}}(?=${character})`, "gu");
}

function division(character, length, divider) {
  return new RegExp(`(?<=${character}{${length}})${divider}(?=${character})`, "gu");
}
