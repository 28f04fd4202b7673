/** Which URLs of a reply become links or images. */

const LINK_SCHEMES = new Set(["http:", "https:", "mailto:", "tel:"]);
const RASTER_IMAGE = /^data:image\/(?:png|jpeg|gif|webp|avif);base64,[A-Za-z0-9+/=\s]+$/i;

/**
 * Return the URL to link to, or null if `text` is not allowed as one.
 *
 * Relative URLs would point into this service. User info makes `https://bank.example@elsewhere.example` look like
 * the bank's.
 */
export function linkTarget(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  if (!LINK_SCHEMES.has(url.protocol) || url.username || url.password) return null;
  return url.href;
}

/** Return whether `text` is an image that is contained in its URL. Any other would tell its host that it is looked at. */
export function isEmbeddedImage(text) {
  return RASTER_IMAGE.test(text);
}
