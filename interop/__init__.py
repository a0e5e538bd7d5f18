# SPDX-License-Identifier: Apache-2.0
"""
Two-way exchange with etcd, proven with etcd itself.

Nothing here knows how etcd's log works: a real etcd server (``server``) and etcd's own package (``gowal``, in Go) write
and read, this library writes and reads, and a model (``model``) that knows neither says what must be there. Needs etcd,
etcd's Go sources and a Go compiler; without them the tests are skipped, and say so.
"""
