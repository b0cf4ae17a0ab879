// Sphinx fetches each page that a search finds, to show an excerpt. A page from the file system may not fetch another
// one, so there the words come from texts.js.
if (location.protocol === "file:" && document.getElementById("search-results")) {
  const root = document.documentElement.dataset.content_root;
  const loaded = new Promise((done) => {
    const script = document.createElement("script");
    script.src = `${root}_static/texts.js`;
    script.addEventListener("load", () => done(window.PAGE_TEXTS));
    document.head.append(script);
  });
  window.fetch = async (address) => {
    const name = address.slice(root.length).replace(/\.html$/, "");
    const texts = (await loaded)[name] ?? [];
    const main = document.createElement("div");
    main.setAttribute("role", "main");
    for (const [id, words] of texts) {
      const section = main.appendChild(document.createElement("section"));
      if (id) section.id = id;
      section.textContent = `${words} `;
    }
    return { text: async () => main.outerHTML };
  };
}
