/** Character references in text, e.g. `&amp;`. The browser is not asked, because it would have to parse HTML. */

const NAMED = {
  amp: "&", apos: "'", bull: "•", cent: "¢", copy: "©", darr: "↓", deg: "°", divide: "÷", euro: "€", ge: "≥", gt: ">",
  harr: "↔", hellip: "…", infin: "∞", laquo: "«", larr: "←", ldquo: "“", le: "≤", lsquo: "‘", lt: "<", mdash: "—",
  micro: "µ", middot: "·", minus: "−", nbsp: "\u00a0", ndash: "–", ne: "≠", para: "¶", plusmn: "±", pound: "£",
  quot: '"', raquo: "»", rarr: "→", rdquo: "”", reg: "®", rsquo: "’", sect: "§", times: "×", trade: "™", uarr: "↑",
}; // prettier-ignore

const REFERENCE = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([A-Za-z]{2,6}));/g;

/** Replace character references by their characters. Unknown ones are left as they are. */
export function decodeEntities(text) {
  return text.replace(REFERENCE, (whole, decimal, hexadecimal, name) => {
    if (name) return Object.hasOwn(NAMED, name) ? NAMED[name] : whole;
    const codePoint = decimal ? Number(decimal) : Number.parseInt(hexadecimal, 16);
    const isValid = codePoint > 0 && codePoint <= 0x10ffff && (codePoint < 0xd800 || codePoint > 0xdfff);
    return String.fromCodePoint(isValid ? codePoint : 0xfffd);
  });
}
