// SPDX-License-Identifier: Apache-2.0

// Command gowal puts etcd's own write-ahead log package at the service of the tests. It reads commands as JSON, one a
// line, and answers each with one line. It adds nothing: what it says is what the package returned, an error's text and
// a panic's included. It may hold any number of logs, by their directories; the end of its input ends it.
//
//	create     make a log and hold it              dir, metadata, segment_size, sync
//	open       lock a log, read it, hold it        dir, snapshot, segment_size, sync
//	append     Save or SaveSnapshot, one by one    dir, saves
//	append_on  the same, answering each save with a line of its own that counts them; then the answer
//	release    ReleaseLockTo                       dir, index
//	close      close a log that is held            dir
//	read       OpenForRead and ReadAll             dir, snapshot
//	verify     Verify                              dir, snapshot
//	snapshots  ValidSnapshotEntries                dir
//	repair     Repair, which waits for the lock    dir
//	lockable   the segments whose lock is free     dir
//	describe   etcd's version
//
// Build: GO111MODULE=off GOPATH=/usr/share/gocode go build gowal.go   (Debian's golang-go, golang-etcd-server-dev)
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/pkg/fileutil"
	"go.etcd.io/etcd/raft/raftpb"
	"go.etcd.io/etcd/version"
	"go.etcd.io/etcd/wal"
	"go.etcd.io/etcd/wal/walpb"
	"go.uber.org/zap"
)

type hardState struct {
	Term   uint64 `json:"term"`
	Vote   uint64 `json:"vote"`
	Commit uint64 `json:"commit"`
}

type snapshot struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
}

// entry has data that are null or empty: two things for etcd, which writes an empty field for the latter.
type entry struct {
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
	Type  int32  `json:"type"`
	Data  []byte `json:"data"`
}

// save is one Save (state, entries), or one SaveSnapshot.
type save struct {
	State    hardState `json:"state"`
	Entries  []entry   `json:"entries"`
	Snapshot *snapshot `json:"snapshot"`
}

type command struct {
	Do          string   `json:"do"`
	Dir         string   `json:"dir"`
	Metadata    []byte   `json:"metadata"`
	Snapshot    snapshot `json:"snapshot"`
	SegmentSize int64    `json:"segment_size"`
	Sync        bool     `json:"sync"`
	Index       uint64   `json:"index"`
	Saves       []save   `json:"saves"`
}

type answer struct {
	Error     string     `json:"error"`
	Panic     string     `json:"panic"`
	Metadata  []byte     `json:"metadata"`
	State     hardState  `json:"state"`
	Entries   []entry    `json:"entries"`
	Snapshots []snapshot `json:"snapshots"`
	Repaired  bool       `json:"repaired"`
	Saved     int        `json:"saved"`
	Names     []string   `json:"names"`
}

// log is one that is held. The size of segments is a variable of the package, so it is kept here meanwhile.
type log struct {
	*wal.WAL
	segmentSize int64
}

var (
	logger  = zap.NewNop()
	out     = bufio.NewWriter(os.Stdout)
	answers = json.NewEncoder(out)
	logs    = map[string]log{}
)

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var c command
		check(json.Unmarshal(line, &c))
		say(run(c))
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func say(a answer) {
	check(answers.Encode(a))
	check(out.Flush())
}

func run(c command) (a answer) {
	defer func() {
		if r := recover(); r != nil {
			a.Panic = fmt.Sprint(r)
		}
	}()
	if err := a.do(c); err != nil {
		a.Error = err.Error()
	}
	return a
}

func (a *answer) do(c command) error {
	start := walpb.Snapshot{Index: c.Snapshot.Index, Term: c.Snapshot.Term}
	if c.SegmentSize != 0 {
		wal.SegmentSizeBytes = c.SegmentSize
	}
	switch c.Do {
	case "create":
		w, err := wal.Create(logger, c.Dir, c.Metadata)
		if err != nil {
			return err
		}
		hold(w, c)
	case "open":
		w, err := wal.Open(logger, c.Dir, start)
		if err != nil {
			return err
		}
		if err = a.read(w); err != nil {
			w.Close()
			return err
		}
		hold(w, c)
	case "append", "append_on":
		held := logs[c.Dir]
		wal.SegmentSizeBytes = held.segmentSize
		for _, s := range c.Saves {
			if err := held.save(s); err != nil {
				return err
			}
			a.Saved++
			if c.Do == "append_on" {
				say(answer{Saved: a.Saved})
			}
		}
	case "release":
		return logs[c.Dir].ReleaseLockTo(c.Index)
	case "close":
		held := logs[c.Dir]
		delete(logs, c.Dir)
		return held.Close()
	case "read":
		w, err := wal.OpenForRead(logger, c.Dir, start)
		if err != nil {
			return err
		}
		defer w.Close() // always an error: etcd closes a directory that it never opened
		return a.read(w)
	case "verify":
		return wal.Verify(logger, c.Dir, start)
	case "snapshots":
		found, err := wal.ValidSnapshotEntries(logger, c.Dir)
		for _, s := range found {
			a.Snapshots = append(a.Snapshots, snapshot{s.Index, s.Term})
		}
		return err
	case "repair":
		a.Repaired = wal.Repair(logger, c.Dir)
	case "lockable":
		return a.lockable(c.Dir)
	case "describe":
		a.Names = []string{version.Version}
	default:
		return fmt.Errorf("there is no command %q", c.Do)
	}
	return nil
}

func hold(w *wal.WAL, c command) {
	if !c.Sync {
		w.SetUnsafeNoFsync()
	}
	logs[c.Dir] = log{w, wal.SegmentSizeBytes}
}

func (a *answer) read(w *wal.WAL) error {
	metadata, state, entries, err := w.ReadAll()
	a.Metadata, a.State = metadata, hardState{state.Term, state.Vote, state.Commit}
	for _, e := range entries {
		a.Entries = append(a.Entries, entry{e.Term, e.Index, int32(e.Type), e.Data})
	}
	return err
}

func (l log) save(s save) error {
	if s.Snapshot != nil {
		return l.SaveSnapshot(walpb.Snapshot{Index: s.Snapshot.Index, Term: s.Snapshot.Term})
	}
	entries := make([]raftpb.Entry, len(s.Entries))
	for i, e := range s.Entries {
		entries[i] = raftpb.Entry{Term: e.Term, Index: e.Index, Type: raftpb.EntryType(e.Type), Data: e.Data}
	}
	return l.Save(raftpb.HardState{Term: s.State.Term, Vote: s.State.Vote, Commit: s.State.Commit}, entries)
}

// lockable tries the locks as etcd's purge does, and gives them back.
func (a *answer) lockable(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		file, err := fileutil.TryLockFile(path, os.O_WRONLY, fileutil.PrivateFileMode)
		if err == fileutil.ErrLocked {
			continue
		}
		if err != nil {
			return err
		}
		a.Names = append(a.Names, filepath.Base(path))
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}
