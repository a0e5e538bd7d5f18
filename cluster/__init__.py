# SPDX-License-Identifier: Apache-2.0
"""
Proof of the storage on a cluster: real etcd members that are killed, paused and cut off while it is written to.

Run it by ``make cluster``. It takes etcd (on Debian: ``etcd-server``), and for partitions root and Linux.
"""
