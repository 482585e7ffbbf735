"""Jobs over an MQTT 5 broker: workers (`plait worker MODEL --broker URL`), and `plait.Runtime(URL)` as their client.

Topics, below `PREFIX/POOL/`; every message is QoS 1. `CLIENT` and `WORKER` are MQTT client ids.

| topic | from, to | messages |
| --- | --- | --- |
| `jobs/CLIENT/JOB` | client, to one worker by `$share/workers/` | `offer`: the job and its epoch |
| `workers/WORKER` | worker, to all; retained | `beat`: capacity, its jobs, or some; empty: it is gone (last will) |
| `orders/WORKER/CLIENT/JOB` | client, to one worker | `grant`, `watch`, `drop`, `cancel`, `resend`, `offer` |
| `reports/CLIENT/JOB` | worker, to the client | `queued`, `claim`, `returned`, `declined`, `events`, `chunk` |
| `clients/CLIENT` | last will of the client, to all workers | empty: nobody waits for its jobs any longer |

The client is the arbiter of its jobs; nothing else has to agree on anything. A job has an *epoch*, which begins at 1.

1. The client offers a job while it sees capacity in the workers' beats. An offer nobody answers is made again, to one
   worker by its name; as are all for a while after one fell silent, which the broker gives its share until it notices.
2. A worker with a free slot claims it (`claim`), another notes it (`queued`) and claims it later. The client grants the
   job to one claimer in each epoch and tells all others to drop it, so an offer may be delivered any number of times. A
   worker that cannot run it says so (`declined`, with the error as the job's answer); the client then offers it to one
   that has not, and takes the answer if there is none, unless a worker took the job before.
3. The worker that was granted it runs it and sends its events, if the client wants them (`grant` says so, or `watch`
   later), numbered from 0 in each epoch, then the answer (result and trace) in numbered chunks. What is missing is seen
   by a gap in the numbers, or by what the worker's beat says it has sent, and sent again on `resend`: the worker keeps
   everything until `drop`, which acknowledges the answer.
4. A worker whose will comes or whose beats stay away has lost the lease on its jobs: their epoch grows by one, and they
   are offered again. What comes from an older epoch is told to be dropped: each job is answered once.
5. A worker that is told to stop hands back (`returned`) what it has not begun, and what it cannot finish.

`messages` is the data, `client_state` and `worker_state` (which answer with `client_actions` and `worker_actions`) are
the protocol without clocks or sockets, `link` is a `connection` that comes back, `remote` (with its `remote_job`s) and
`worker` (with what is `serving` a job) put them together.
"""
