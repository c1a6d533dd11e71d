// The elements of the page.

/** @param {string} id */
export const find = (id) => /** @type {any} */ (document.getElementById(id));
