"""A small classifier, as anyone might write it; nothing in it knows that its speed is tested."""
