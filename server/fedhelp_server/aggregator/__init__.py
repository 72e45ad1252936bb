"""The aggregator: takes what it cannot read, adds it, and writes down every step.

Parts, from the inside out: `rounds` is the protocol as a table; `blobs` and `store` are what is
durable; `book` keeps store, evidence log and watchers in step; `uploads` takes contributions;
`custodians` asks the custodians; `driver` adds and moves the rounds; `coordinator` and
`evidence_service` are the gRPC faces; `service` puts them together.
"""
