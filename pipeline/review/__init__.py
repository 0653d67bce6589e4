"""Review by people: which items, where answers are kept, the page, and what becomes of them."""
