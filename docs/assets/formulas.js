// What arithmatex left as \( ... \) or \[ ... \], drawn by KaTeX; an error shows in red.
const joiner = "\u2060"; // no line break between a formula and what touches it
for (const element of document.querySelectorAll(".arithmatex")) {
  const text = element.textContent.trim();
  const displayMode = text.startsWith("\\[");
  katex.render(text.slice(2, -2), element, { displayMode, throwOnError: false });
  if (!displayMode) {
    if (/\S$/.test(element.previousSibling?.textContent ?? "")) element.before(joiner);
    if (/^\S/.test(element.nextSibling?.textContent ?? "")) element.after(joiner);
  }
}
