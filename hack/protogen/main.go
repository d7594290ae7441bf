// Command protogen writes the Go code of a .proto file of ours beside it, with the
// compiler and the plugins that this module pins: nothing needs to be installed, and
// everybody's output is the same.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	_ "google.golang.org/genproto/googleapis/rpc/status" // google/rpc/status.proto, for imports of it
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: protogen ROOT FILE: FILE is a .proto below ROOT, named from there")
		os.Exit(2)
	}
	if err := generate(context.Background(), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

// generate writes what both plugins make of a file.
func generate(ctx context.Context, root, name string) error {
	compiler := protocompile.Compiler{
		SourceInfoMode: protocompile.SourceInfoStandard, // comments become Go's
		Resolver: protocompile.CompositeResolver{
			&protocompile.SourceResolver{ImportPaths: []string{root}},
			protocompile.ResolverFunc(linkedIn),
		},
	}
	files, err := compiler.Compile(ctx, name)
	if err != nil {
		return err
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{name},
		Parameter:      new("paths=source_relative"),
		ProtoFile:      withImports(files[0], map[string]bool{}),
	}
	for _, plugin := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		if err := write(ctx, root, plugin, request); err != nil {
			return fmt.Errorf("%s: %s: %w", name, plugin, err)
		}
	}
	return nil
}

// linkedIn finds files that this program carries in compiled form.
func linkedIn(path string) (protocompile.SearchResult, error) {
	file, err := protoregistry.GlobalFiles.FindFileByPath(path)
	return protocompile.SearchResult{Desc: file}, err
}

// withImports lists a file after all that it imports, as plugins want it.
func withImports(file protoreflect.FileDescriptor, seen map[string]bool) (all []*descriptorpb.FileDescriptorProto) {
	if seen[file.Path()] {
		return nil
	}
	seen[file.Path()] = true
	imports := file.Imports()
	for i := range imports.Len() {
		all = append(all, withImports(imports.Get(i).FileDescriptor, seen)...)
	}
	return append(all, protodesc.ToFileDescriptorProto(file))
}

// write runs one plugin of this module's and writes what it answers with.
func write(ctx context.Context, root, plugin string, request *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &response); err != nil {
		return err
	}
	if response.Error != nil {
		return fmt.Errorf("%s", response.GetError())
	}
	for _, f := range response.GetFile() {
		if err := os.WriteFile(filepath.Join(root, f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
