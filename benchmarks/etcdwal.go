// Command etcdwal is the worker that measures etcd's write-ahead log in Go. It reads tasks as JSON, one a line, and
// answers each with a line, as worker.py does; the tasks and the answers are described there.
//
// Build: GO111MODULE=off GOPATH=/usr/share/gocode go build etcdwal.go   (Debian's golang-go, golang-etcd-server-dev)
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/raft/raftpb"
	"go.etcd.io/etcd/version"
	"go.etcd.io/etcd/wal"
	"go.etcd.io/etcd/wal/walpb"
	"go.uber.org/zap"
)

type task struct {
	Task    string  `json:"task"`
	Path    string  `json:"path"`
	Entries int     `json:"entries"`
	Bytes   int     `json:"bytes"`
	Saves   int     `json:"saves"`
	Sync    bool    `json:"sync"`
	Savers  int     `json:"savers"`
	Seconds float64 `json:"seconds"`
}

type answer map[string]interface{}

type span struct{ started, ended time.Time }

const warmUp = 10

var logger = zap.NewNop()

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	tasks := map[string]func(task) answer{
		"describe": describe,
		"save":     save,
		"threads":  savers,
		"tasks":    savers, // goroutines are both
		"write":    write,
		"read_all": readAll,
		"open":     open,
	}
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var t task
		check(json.Unmarshal(lines.Bytes(), &t))
		if do, known := tasks[t.Task]; known {
			check(answers.Encode(do(t)))
		} else {
			check(answers.Encode(answer{"missing": "etcd's Go has nothing of the kind"}))
		}
		debug.FreeOSMemory() // between the clocks, as worker.py collects its garbage
	}
}

func describe(task) answer {
	return answer{"version": fmt.Sprintf("%s, %s", version.Version, runtime.Version())}
}

// payloads returns the data of entries: a few blocks of noise, used in turn.
func payloads(bytes int) [][]byte {
	blocks := make([][]byte, 64)
	noise := uint32(1)
	for i := range blocks {
		blocks[i] = make([]byte, bytes)
		for j := range blocks[i] {
			noise = noise*1664525 + 1013904223
			blocks[i][j] = byte(noise >> 24)
		}
	}
	return blocks
}

func create(t task, durable bool) *wal.WAL {
	w, err := wal.Create(logger, t.Path, nil)
	check(err)
	if !durable {
		w.SetUnsafeNoFsync()
	}
	return w
}

func save(t task) answer {
	data := payloads(t.Bytes)
	batches := make([][]raftpb.Entry, warmUp+t.Saves)
	index := uint64(0)
	for i := range batches {
		batches[i] = make([]raftpb.Entry, t.Entries)
		for j := range batches[i] {
			index++
			batches[i][j] = raftpb.Entry{Term: 1, Index: index, Data: data[index%64]}
		}
	}
	w := create(t, t.Sync)
	times := make([]int64, 0, len(batches))
	var begun time.Time
	for i, batch := range batches {
		if i == warmUp {
			begun = time.Now()
		}
		started := time.Now()
		check(w.Save(raftpb.HardState{}, batch))
		times = append(times, time.Since(started).Nanoseconds())
	}
	total := time.Since(begun)
	check(w.Close())
	return summary(times[warmUp:], total, t.Saves*t.Entries)
}

func savers(t task) answer {
	data := payloads(t.Bytes)[0]
	w := create(t, true)
	var index uint64
	var turn sync.Mutex
	var done sync.WaitGroup
	start := make(chan struct{})
	each := make([][]span, t.Savers)
	// As in worker.py: saves count that end within so many seconds, after half as many in which all get going.
	var begin, end time.Time
	for i := range each {
		done.Add(1)
		go func(spans *[]span) {
			defer done.Done()
			<-start
			for {
				started := time.Now()
				if !started.Before(end) {
					return
				}
				// Indexes must follow each other, so they are given out where the save is made.
				turn.Lock()
				index++
				err := w.Save(raftpb.HardState{}, []raftpb.Entry{{Term: 1, Index: index, Data: data}})
				turn.Unlock()
				check(err)
				*spans = append(*spans, span{started, time.Now()})
			}
		}(&each[i])
	}
	window := time.Duration(t.Seconds * 1e9)
	begin = time.Now().Add(window / 2)
	end = begin.Add(window)
	close(start)
	done.Wait()
	check(w.Close())
	var times []int64
	for _, spans := range each {
		for _, s := range spans {
			if !s.ended.Before(begin) && s.ended.Before(end) {
				times = append(times, s.ended.Sub(s.started).Nanoseconds())
			}
		}
	}
	if len(times) == 0 {
		return answer{"missing": "no save was done within the time"}
	}
	return summary(times, window, len(times))
}

func write(t task) answer {
	data := payloads(t.Bytes)
	w := create(t, false)
	for index := uint64(0); index < uint64(t.Entries); {
		var batch []raftpb.Entry
		for len(batch) < 1000 && index < uint64(t.Entries) {
			index++
			batch = append(batch, raftpb.Entry{Term: 1, Index: index, Data: data[index%64]})
		}
		check(w.Save(raftpb.HardState{}, batch))
	}
	check(w.Close())
	return answer{"entries": t.Entries}
}

func readAll(t task) answer {
	return read(t, wal.OpenForRead)
}

func open(t task) answer {
	return read(t, wal.Open)
}

func read(t task, open func(*zap.Logger, string, walpb.Snapshot) (*wal.WAL, error)) answer {
	before := memory("VmRSS")
	begun := time.Now()
	w, err := open(logger, t.Path, walpb.Snapshot{})
	check(err)
	_, _, entries, err := w.ReadAll()
	total := time.Since(begun)
	check(err)
	result := answer{
		"seconds": total.Seconds(),
		"entries": len(entries),
		"grown":   memory("VmHWM") - before,
	}
	_ = w.Close() // in a log that was opened for reading it fails on the directory, which it has not opened
	return result
}

// summary has the percentiles by nearest rank, in seconds.
func summary(times []int64, total time.Duration, entries int) answer {
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	rank := func(percent int) float64 {
		return float64(times[(len(times)*percent+99)/100-1]) / 1e9
	}
	return answer{
		"p50":        rank(50),
		"p99":        rank(99),
		"most":       rank(100),
		"per_second": float64(entries) / total.Seconds(),
	}
}

var sizes = regexp.MustCompile(`(VmRSS|VmHWM):\s+(\d+) kB`)

// memory returns what Linux says of this process, in bytes; 0 elsewhere.
func memory(name string) int64 {
	status, _ := os.ReadFile("/proc/self/status")
	for _, found := range sizes.FindAllStringSubmatch(string(status), -1) {
		if found[1] == name {
			kilobytes, _ := strconv.ParseInt(found[2], 10, 64)
			return kilobytes * 1024
		}
	}
	return 0
}
