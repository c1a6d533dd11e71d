"""The page: automata that live in a browser, in one HTML file.

The source is plain JavaScript, GLSL, CSS and HTML in source/; `bundle` puts it into one text, `models` says what of a
model the page needs, `page` fills the page.
"""
