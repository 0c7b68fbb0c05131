"""What a profile says, as values in the order of a reader's questions: how long and how sure, what
bounds it, where the time goes, what to try, how much of this is the profiler. `xsp.report` makes
text, pages, Markdown and JSON of it.
"""
