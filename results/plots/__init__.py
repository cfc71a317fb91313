"""Pictures of a record: what each shows, and how it becomes SVG."""
