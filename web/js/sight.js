// When a code that a camera reads counts as shown: once, until it has been out of sight for a while. The same code checks
// in and out, so a phone that is held up for long must not do both.

/** A code that was not read for this long has been taken away. */
export const AWAY_MS = 4000;

export class Sight {
  code = "";
  at = 0;

  /** Whether reading `code` at `now` (milliseconds) shows it anew. */
  shows(code, now) {
    const anew = code !== this.code || now - this.at > AWAY_MS;
    this.code = code;
    this.at = now;
    return anew;
  }
}
