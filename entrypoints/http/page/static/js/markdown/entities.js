/** Character references, e.g. `&amp;`. The browser is not asked, because it would have to parse HTML. */

/** Those of HTML 4, and some of HTML 5. The list of HTML 5, of 2,125 names, would be as large as the rest of the scripts. */
const NAMED = {
  Aacute: "Á", aacute: "á", Acirc: "Â", acirc: "â", acute: "´", AElig: "Æ", aelig: "æ", Agrave: "À", agrave: "à",
  alefsym: "ℵ", Alpha: "Α", alpha: "α", amp: "&", and: "∧", ang: "∠", apos: "'", Aring: "Å", aring: "å", asymp: "≈",
  Atilde: "Ã", atilde: "ã", Auml: "Ä", auml: "ä", bdquo: "„", Beta: "Β", beta: "β", brvbar: "¦", bull: "•", cap: "∩",
  Ccedil: "Ç", ccedil: "ç", cedil: "¸", cent: "¢", check: "✓", Chi: "Χ", chi: "χ", circ: "ˆ", clubs: "♣", colon: ":",
  cong: "≅", copy: "©", crarr: "↵", cross: "✗", cup: "∪", curren: "¤", Dagger: "‡", dagger: "†", dArr: "⇓", darr: "↓",
  deg: "°", Delta: "Δ", delta: "δ", diams: "♦", divide: "÷", Eacute: "É", eacute: "é", Ecirc: "Ê", ecirc: "ê",
  Egrave: "È", egrave: "è", empty: "∅", emsp: "\u2003", ensp: "\u2002", Epsilon: "Ε", epsilon: "ε", equiv: "≡",
  Eta: "Η", eta: "η", ETH: "Ð", eth: "ð", Euml: "Ë", euml: "ë", euro: "€", exist: "∃", fnof: "ƒ", forall: "∀",
  frac12: "½", frac14: "¼", frac34: "¾", frasl: "⁄", Gamma: "Γ", gamma: "γ", ge: "≥", gt: ">", hArr: "⇔", harr: "↔",
  hearts: "♥", hellip: "…", Iacute: "Í", iacute: "í", Icirc: "Î", icirc: "î", iexcl: "¡", Igrave: "Ì", igrave: "ì",
  image: "ℑ", infin: "∞", int: "∫", Iota: "Ι", iota: "ι", iquest: "¿", isin: "∈", Iuml: "Ï", iuml: "ï", Kappa: "Κ",
  kappa: "κ", Lambda: "Λ", lambda: "λ", lang: "⟨", laquo: "«", lArr: "⇐", larr: "←", lceil: "⌈", ldquo: "“", le: "≤",
  lfloor: "⌊", lowast: "∗", loz: "◊", lrm: "\u200e", lsaquo: "‹", lsquo: "‘", lt: "<", macr: "¯", mdash: "—",
  micro: "µ", middot: "·", minus: "−", Mu: "Μ", mu: "μ", nabla: "∇", nbsp: "\u00a0", ndash: "–", ne: "≠",
  NewLine: "\n", ni: "∋", not: "¬", notin: "∉", nsub: "⊄", Ntilde: "Ñ", ntilde: "ñ", Nu: "Ν", nu: "ν", Oacute: "Ó",
  oacute: "ó", Ocirc: "Ô", ocirc: "ô", OElig: "Œ", oelig: "œ", Ograve: "Ò", ograve: "ò", oline: "‾", Omega: "Ω",
  omega: "ω", Omicron: "Ο", omicron: "ο", oplus: "⊕", or: "∨", ordf: "ª", ordm: "º", Oslash: "Ø", oslash: "ø",
  Otilde: "Õ", otilde: "õ", otimes: "⊗", Ouml: "Ö", ouml: "ö", para: "¶", part: "∂", permil: "‰", perp: "⊥", Phi: "Φ",
  phi: "φ", Pi: "Π", pi: "π", piv: "ϖ", plusmn: "±", pound: "£", Prime: "″", prime: "′", prod: "∏", prop: "∝",
  Psi: "Ψ", psi: "ψ", quot: '"', radic: "√", rang: "⟩", raquo: "»", rArr: "⇒", rarr: "→", rceil: "⌉", rdquo: "”",
  real: "ℜ", reg: "®", rfloor: "⌋", Rho: "Ρ", rho: "ρ", rlm: "\u200f", rsaquo: "›", rsquo: "’", sbquo: "‚",
  Scaron: "Š", scaron: "š", sdot: "⋅", sect: "§", shy: "\u00ad", Sigma: "Σ", sigma: "σ", sigmaf: "ς", sim: "∼",
  spades: "♠", sub: "⊂", sube: "⊆", sum: "∑", sup: "⊃", sup1: "¹", sup2: "²", sup3: "³", supe: "⊇", szlig: "ß",
  Tab: "\t", Tau: "Τ", tau: "τ", there4: "∴", Theta: "Θ", theta: "θ", thetasym: "ϑ", thinsp: "\u2009", THORN: "Þ",
  thorn: "þ", tilde: "˜", times: "×", trade: "™", Uacute: "Ú", uacute: "ú", uArr: "⇑", uarr: "↑", Ucirc: "Û",
  ucirc: "û", Ugrave: "Ù", ugrave: "ù", uml: "¨", upsih: "ϒ", Upsilon: "Υ", upsilon: "υ", Uuml: "Ü", uuml: "ü",
  weierp: "℘", Xi: "Ξ", xi: "ξ", Yacute: "Ý", yacute: "ý", yen: "¥", Yuml: "Ÿ", yuml: "ÿ", Zeta: "Ζ", zeta: "ζ",
  zwj: "\u200d", zwnj: "\u200c",
}; // prettier-ignore

const REFERENCE = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([A-Za-z][A-Za-z0-9]{1,7}));/g;

/** Replace character references by their characters. Unknown ones are left as they are. */
export function decodeEntities(text) {
  return text.replace(REFERENCE, (whole, decimal, hexadecimal, name) => {
    if (name) return Object.hasOwn(NAMED, name) ? NAMED[name] : whole;
    const codePoint = decimal ? Number(decimal) : Number.parseInt(hexadecimal, 16);
    const isValid = codePoint > 0 && codePoint <= 0x10ffff && (codePoint < 0xd800 || codePoint > 0xdfff);
    return String.fromCodePoint(isValid ? codePoint : 0xfffd);
  });
}
