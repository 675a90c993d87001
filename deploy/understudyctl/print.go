package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// answers are the templates of what people read; tabs separate columns.
//
//go:embed answers.tmpl
var answers string

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"word": word, "when": when, "ms": ms, "spares": spares, "dash": dash,
}).Parse(answers))

// printer writes answers, as JSON or by a template.
type printer struct {
	w    io.Writer
	json bool
	name string
}

func (p printer) print(m proto.Message) error {
	if chunk, ok := m.(*pb.SupportBundleChunk); ok {
		_, err := p.w.Write(chunk.GetData())
		return err
	}
	var b bytes.Buffer
	if p.json {
		text, err := protojson.Marshal(m)
		if err != nil {
			return err
		}
		// The spaces of protojson itself differ from build to build.
		if err := json.Indent(&b, text, "", "  "); err != nil {
			return err
		}
		_, err = fmt.Fprintln(p.w, b.String())
		return err
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if err := templates.ExecuteTemplate(w, p.name, m); err != nil {
		return err
	}
	_ = w.Flush() // to memory
	_, err := io.WriteString(p.w, clean(b.String()))
	return err
}

// clean keeps what a replica or an arbiter says from steering the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// word is an enum's value for people: MODE_SOLO is "solo".
func word(e protoreflect.Enum) string {
	v := e.Descriptor().Values().ByNumber(e.Number())
	if v == nil {
		return fmt.Sprint(e.Number()) // of a newer release
	}
	prefix := strings.TrimSuffix(string(e.Descriptor().Values().ByNumber(0).Name()), "UNSPECIFIED")
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix)), "_", " ")
}

// spares counts them, where who answers knows: etcd does not say what a replica is.
func spares(s *pb.VMStatus) string {
	n, known := 0, false
	for _, r := range s.GetReplicas() {
		known = known || r.GetRole() != pb.Role_ROLE_UNSPECIFIED
		if r.GetRole() == pb.Role_ROLE_SPARE {
			n++
		}
	}
	if !known {
		return "-"
	}
	return fmt.Sprint(n)
}

func when(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05Z") }

func ms(us uint64) time.Duration {
	return (time.Duration(us) * time.Microsecond).Round(time.Millisecond)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
